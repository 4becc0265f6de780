#!/bin/sh
# Give ENVBUILD_DIGEST its tag in the registry, if the verdict that is attached to it allows it; then look at it as a
# stranger would, with the public keys alone. No blob moves, and no machine with GPUs is needed.
#
# Besides what repository.sh reads:
#   ENVBUILD_DIGEST        what publish.sh pushed and gate.sh judged
#   ENVBUILD_GATE_KEY      the gate's public key, a file of the checkout: only its verdict counts [default: release-gate.pem]
#   ENVBUILD_BUILD_KEY     the public key of publish.sh's signatures [default: release-build.pem]
#   ENVBUILD_SIGNING_KEY   the gate's key: signs where a tag moved from
#   ENVBUILD_MOVE_TAG      `true`: the tag may leave another image, and the provenance says so [default: refuse]
#
# Exit 6: no passing verdict by that key about exactly this digest. Exit 5: what was published does not hold.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
# shellcheck source=ci/pipeline/repository.sh
. "$(dirname "$0")/repository.sh"
gate_key=${ENVBUILD_GATE_KEY:-release-gate.pem}
build_key=${ENVBUILD_BUILD_KEY:-release-build.pem}
if [ "${ENVBUILD_MOVE_TAG:-false}" = true ]; then
    set -- --move-tag
else
    set --
fi
envbuild promote "$repository@${ENVBUILD_DIGEST:?is not set: the digest that publish.sh printed}" --key "$gate_key" "$@"
unset ENVBUILD_SIGNING_KEY
envbuild verify "$repository:$tag" --gate-key "$gate_key" --key "$build_key"
