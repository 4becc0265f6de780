#!/bin/sh
# Build the image of ENVBUILD_REF and push it by its digest. It has no tag then: that is the gate's to allow.
#
# Besides what repository.sh reads:
#   ENVBUILD_SIGNING_KEY                            signs the provenance (the key's PEM text)
#   ENVBUILD_REGISTRY_USER, ENVBUILD_REGISTRY_PASSWORD
#   GITHUB_OUTPUT     gets digest=sha256:…; GitHub sets it
#   ENVBUILD_DOTENV   a file that gets ENVBUILD_DIGEST=sha256:…, for GitLab's artifacts:reports:dotenv
#
# Needs neither GPUs nor a Docker daemon. What the registry has is neither fetched, built nor sent again, and a layer of a
# wheel is streamed from the wheel, so that a small disk will do.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
# shellcheck source=ci/pipeline/repository.sh
. "$(dirname "$0")/repository.sh"
told=$(mktemp)
trap 'rm -f "$told"' EXIT
set -- # what lies in the layer cache of the same registry is given to the repository there: it does not travel
case ${ENVBUILD_LAYER_CACHE:-} in
"${images%%/*}"/*) set -- --mount-from "${ENVBUILD_LAYER_CACHE#*/}" ;;
esac
envbuild publish "$ENVBUILD_REF" "$repository" --by-digest "$@" --json >"$told"
digest=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["digest"])' <"$told")
printf '%s@%s\n' "$repository" "$digest"
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    printf 'digest=%s\n' "$digest" >>"$GITHUB_OUTPUT"
fi
if [ -n "${ENVBUILD_DOTENV:-}" ]; then
    printf 'ENVBUILD_DIGEST=%s\n' "$digest" >"$ENVBUILD_DOTENV"
fi
