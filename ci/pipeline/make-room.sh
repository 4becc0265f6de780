#!/bin/sh
# Empty the store if the image of ENVBUILD_REF may not fit beside what is in it: for runners with a small disk.
#
#   ENVBUILD_SCRATCH_STORE   `true`: the store may be thrown away; anything else: leave it [default: leave it]
#   ENVBUILD_STORE           the store's folder
#
# What a build needs is `envbuild matrix`'s estimate. Nothing is lost but time: the layer cache has what was pushed.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
[ "${ENVBUILD_SCRATCH_STORE:-false}" = true ] || exit 0
store=${ENVBUILD_STORE:?is not set: the folder that may be emptied}
[ -e "$store/store.json" ] || exit 0 # no store yet; and never another folder
needed=$(envbuild matrix "${ENVBUILD_REF:?is not set: name:tag of the recipe}" --json |
    python3 -c 'import json, sys; print((json.load(sys.stdin)["include"][0]["disk"] or 0) // 1024)')
free=$(df -Pk "$store" | awk 'NR == 2 { print $4 }')
if [ "$free" -lt "$needed" ]; then
    printf 'make-room.sh: %s needs some %s kB, %s are free: the store is emptied\n' "$ENVBUILD_REF" "$needed" "$free" >&2
    # Unpacked files belong to users of the sandbox, whom only root may remove.
    rm -rf "$store" 2>/dev/null || sudo -n rm -rf "$store"
fi
