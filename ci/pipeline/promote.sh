#!/bin/sh
# Give ENVBUILD_DIGEST its tag in the registry, if the verdict that is attached to it allows it; then look at it as a
# stranger would, with the public key alone. No blob moves, and no machine with GPUs is needed.
#
# Besides what repository.sh reads:
#   ENVBUILD_DIGEST     what publish.sh pushed and gate.sh judged
#   ENVBUILD_GATE_KEY   the gate's public key, a file of the checkout [default: release-gate.pem]
#   ENVBUILD_MOVE_TAG   `true`: the tag may leave another image, and the provenance says so [default: refuse]
#
# Exit 6: no passing verdict by that key about exactly this digest. Exit 5: what was published does not hold.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
# shellcheck source=ci/pipeline/repository.sh
. "$(dirname "$0")/repository.sh"
key=${ENVBUILD_GATE_KEY:-release-gate.pem}
if [ "${ENVBUILD_MOVE_TAG:-false}" = true ]; then
    set -- --move-tag
else
    set --
fi
envbuild promote "$repository@${ENVBUILD_DIGEST:?is not set: the digest that publish.sh printed}" --key "$key" "$@"
envbuild verify "$repository:$tag" --key "$key"
