#!/bin/sh
# Read by the scripts beside it, not run: where in the registry the image of ENVBUILD_REF belongs.
#
#   ENVBUILD_IMAGES        REGISTRY/PATH: a recipe's repository lies below it, by the recipe's name
#   ENVBUILD_REF           name:tag
#   ENVBUILD_LAYER_CACHE   REGISTRY/REPO of layers that other jobs made [default: ENVBUILD_IMAGES/layers; `none`: no cache]
#
# Gives repository, tag, ENVBUILD_REGISTRY (the only host that ENVBUILD_REGISTRY_USER and _PASSWORD are sent to).
# Registries take lower-case names only, and the owner of a repository need not have one.
images=$(printf '%s' "${ENVBUILD_IMAGES:?is not set: REGISTRY/PATH below which the images belong}" | tr '[:upper:]' '[:lower:]')
name=${ENVBUILD_REF:?is not set: name:tag of the recipe}
tag=${name#*:}
name=${name%%:*}
repository=$images/$name
export repository tag
export ENVBUILD_REGISTRY="$repository"
case ${ENVBUILD_LAYER_CACHE:-} in
'') export ENVBUILD_LAYER_CACHE="$images/layers" ;;
none) unset ENVBUILD_LAYER_CACHE ;;
esac
