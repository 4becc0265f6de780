#!/bin/sh
# Do recipes, locks and rendered files agree? Reads files only: no network, no secrets, right for a fork's pull request.
#
# Every recipe is looked at, also behind one that fails, so that one run names all that is wrong; the exit code is the
# first failure's (3: run the command that the hint names, and commit what it writes).
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
status=0
remember() { [ "$status" != 0 ] || status=$1; }
refs=$(envbuild list --json | python3 -c 'import json, sys; print(*(row["ref"] for row in json.load(sys.stdin)), sep="\n")')
for ref in $refs; do
    envbuild lock "$ref" --check || remember $?
done
envbuild render --check || remember $?
exit "$status"
