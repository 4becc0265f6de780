#!/bin/sh
# What is to be built? Writes the matrix of jobs where the CI system reads it; the table is for the log.
#
#   ENVBUILD_REFS            patterns, with blanks between them [default: every recipe that makes an image]
#   ENVBUILD_CHANGED_SINCE   a commit: only what changed since; empty, zeros, or one that is not here: everything
#   GITHUB_OUTPUT            gets `matrix` (JSON for fromJSON) and `any` (true or false); GitHub sets it
#   ENVBUILD_CHILD_PIPELINE  a file that gets a GitLab child pipeline with the jobs of each image
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
since=${ENVBUILD_CHANGED_SINCE:-}
set -f # patterns are envbuild's, not the shell's
# shellcheck disable=SC2086  # one pattern a word
set -- ${ENVBUILD_REFS:-}
if [ -z "$(printf '%s' "$since" | tr -d 0)" ]; then
    : # no commit, or that of a branch that is new: everything
elif git cat-file -e "$since^{commit}" 2>/dev/null || git fetch --quiet --depth 1 origin "$since"; then
    set -- "$@" "--changed-since=$since"
else
    printf 'there is no commit %s here: everything is planned\n' "$since" >&2
fi
envbuild matrix "$@"
matrix=$(envbuild matrix "$@" --json)
case $matrix in
*'"ref"'*) any=true ;;
*) any=false ;;
esac
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    printf 'any=%s\nmatrix<<END_OF_MATRIX\n%s\nEND_OF_MATRIX\n' "$any" "$matrix" >>"$GITHUB_OUTPUT"
fi
if [ -n "${ENVBUILD_CHILD_PIPELINE:-}" ]; then
    printf '%s\n' "$matrix" | python3 "$(dirname "$0")/child_pipeline.py" >"$ENVBUILD_CHILD_PIPELINE"
fi
