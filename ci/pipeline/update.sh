#!/bin/sh
# Lock every recipe again with the newest that its pins allow, and say in words for people what moved.
#
#   ENVBUILD_PROPOSAL        a file that gets the text (Markdown) [default: proposal.md]; empty where nothing moved
#   ENVBUILD_UPDATE_CONDA    `false`: leave the conda locks alone [default: true]
#   ENVBUILD_UPDATE_BUILD    `false`: build nothing; the locks then name no digests until someone does [default: true]
#   ENVBUILD_SCRATCH_STORE   see make-room.sh
#
# Versions that a recipe pins stay: those a person moves. It changes files of the checkout and commits nothing
# (propose.sh does). The order is that of `extends`, so that a variant follows the recipe that it extends.
set -eu
export ENVBUILD_RECIPES="${ENVBUILD_RECIPES:-recipes}" # the checkout's, not also those that come with envbuild
here=$(dirname "$0")
proposal=${ENVBUILD_PROPOSAL:-proposal.md}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tab=$(printf '\t')
limit=60000 # bytes of the text: GitHub takes 65536 characters

# relock KIND REF FOLDER PARENT: move what may move in one of the two locks.
relock() {
    if [ "$4" = - ]; then set -- "$1" "$2" "$3"; fi
    names=$(python3 "$here/upgrade_names.py" "$1" "$3" ${4:+"$4"})
    # shellcheck disable=SC2086  # one option a line, none with a blank in it
    envbuild lock "$2" --only "$1" $names
}

# moved FILE: is the recipe's lock another one than before?
moved() { ! cmp -s "$folder/$1" "$before/$1"; }

# section OPERAND…: what `envbuild diff` says of the lock before and the lock now. BEFORE is a recipe of its own.
section() {
    printf '\n```text\n'
    envbuild diff "$@" --recipes "$work/before" --recipes "$(dirname "$(dirname "$folder")")"
    printf '```\n'
}

envbuild list --json | python3 "$here/recipe_order.py" >"$work/order"
: >"$work/text"
while IFS=$tab read -r ref folder image parent <&3; do
    name=${ref%%:*}
    old=${ref#*:}-before
    before=$work/before/$name/$old
    mkdir -p "$(dirname "$before")"
    cp -R "$folder" "$before"
    if [ "$image" = image ]; then
        relock image "$ref" "$folder" "$parent"
    fi
    if [ "${ENVBUILD_UPDATE_CONDA:-true}" = true ]; then
        relock conda "$ref" "$folder" "$parent"
    fi
    if [ "$image" = image ] && moved lock.json; then
        if [ "${ENVBUILD_UPDATE_BUILD:-true}" = true ]; then
            ENVBUILD_REF=$ref "$here/make-room.sh"
            envbuild image "$ref" --no-load
        fi
        printf '\n## %s\n' "$ref" >>"$work/text"
        section "image:$name:$old" "image:$ref" >>"$work/text"
    fi
    if moved conda.lock.json; then
        printf '\n## %s, conda\n' "$ref" >>"$work/text"
        section "conda:$name:$old" "conda:$ref" >>"$work/text"
    fi
done 3<"$work/order"
if [ ! -s "$work/text" ]; then
    : >"$proposal"
    echo 'nothing moved'
    exit
fi
envbuild render
{
    printf 'The locks, resolved again: the newest that the pins of the recipes allow.\n'
    printf 'An image gets its tag when this is merged and the gate has passed it.\n'
    cat "$work/text"
} >"$work/whole"
head -c "$limit" "$work/whole" >"$proposal"
if [ "$(wc -c <"$work/whole")" -gt "$limit" ]; then
    # shellcheck disable=SC2016  # Markdown
    printf '\n```\n\nThe rest is left out here: `envbuild diff` shows it.\n' >>"$proposal"
fi
echo "$proposal says what moved"
