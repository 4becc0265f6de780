#!/usr/bin/env bash
# After a change of what lies in every image (envbuild/image/inside, a label): lock, build and render every recipe again.
# Versions stay. Only layers that changed are made, so with a warm store this takes seconds. Conda locks stay, too: they are
# solved again only where a recipe's [conda] or pins changed, from the channel, or from wherever ENVBUILD_CONDA_CHANNELS says
# (conda-forge=tests/data/conda-forge: the records of the committed locks).
#   ci/relock.sh [REF]…
set -euo pipefail
cd "$(dirname "$0")/.."
envbuild=${ENVBUILD:-.venv/bin/envbuild}
refs=("$@")
if [ ${#refs[@]} -eq 0 ]; then
    mapfile -t refs < <("$envbuild" list --json | python3 -c 'import json, sys; print(*(row["ref"] for row in json.load(sys.stdin)), sep="\n")')
fi
images=$("$envbuild" list --json | python3 -c 'import json, sys; print(*(row["ref"] for row in json.load(sys.stdin) if "image" in row["makes"]), sep="\n")')
for ref in "${refs[@]}"; do
    "$envbuild" lock "$ref" --quiet > /dev/null
    if grep -qxF "$ref" <<< "$images"; then
        "$envbuild" image "$ref" --no-load --quiet
    fi
done
"$envbuild" render --quiet
