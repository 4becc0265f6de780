#!/bin/sh
# Build the image of ENVBUILD_REF and leave it here: for pull requests, where nothing may be pushed and there are no secrets.
# A lock that names another digest than what comes out ends with exit 5.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
envbuild image "${ENVBUILD_REF:?is not set: name:tag of the recipe}" --no-load
