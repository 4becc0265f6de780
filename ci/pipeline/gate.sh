#!/bin/sh
# On a machine with GPUs: pull ENVBUILD_DIGEST, run the suite in it, sign the verdict, attach it to the image.
#
# Besides what repository.sh reads:
#   ENVBUILD_DIGEST        what publish.sh pushed
#   ENVBUILD_SIGNING_KEY   the gate's key (PEM text); the job that builds does not have it
#   ENVBUILD_REPORT        a file that gets the verdict as well [default: verdict.json]
#
# Exit 6: the suite did not pass, or there are too few GPUs here; the verdict says why, and nothing gets a tag.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
# shellcheck source=ci/pipeline/repository.sh
. "$(dirname "$0")/repository.sh"
report=${ENVBUILD_REPORT:-verdict.json}
envbuild smoke "$repository@${ENVBUILD_DIGEST:?is not set: the digest that publish.sh printed}" --attach --report "$report"
# Without GPUs the suite asks what needs none: useful, and not a pass.
result=$(envbuild verdict "$report" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["verdict"]["result"])')
if [ "$result" != passed ]; then
    printf 'gate.sh: the verdict is "%s": run this on a machine with GPUs\n' "$result" >&2
    exit 6
fi
