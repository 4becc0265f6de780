#!/bin/sh
# Offer what update.sh changed as a pull request (GitHub) or a merge request (GitLab): one branch, one open proposal.
#
#   ENVBUILD_PROPOSAL       update.sh's text [default: proposal.md]
#   ENVBUILD_FORGE          github or gitlab [default: what the variables of the CI system say]
#   ENVBUILD_BASE           the branch to merge into [default: main]
#   ENVBUILD_BRANCH         the branch of the proposal [default: envbuild/lock-update]
#   ENVBUILD_UPDATE_REMOTE  where to push: a remote's name or an address [default: origin]
#   ENVBUILD_UPDATE_USER    the user of the token [default: x-access-token for GitHub, oauth2 for GitLab]
#   ENVBUILD_UPDATE_TOKEN   may push, and open the request. git gets it from the environment, and no file keeps it
#   ENVBUILD_UPDATE_EMAIL   who commits [default: envbuild-updates@localhost]
#
# Where nothing changed nothing is pushed and nothing is opened. A branch that somebody else has committed to is left
# alone: exit 1. GitHub's part needs `gh`, which its runners have.
set -eu
proposal=${ENVBUILD_PROPOSAL:-proposal.md}
base=${ENVBUILD_BASE:-main}
branch=${ENVBUILD_BRANCH:-envbuild/lock-update}
remote=${ENVBUILD_UPDATE_REMOTE:-origin}
email=${ENVBUILD_UPDATE_EMAIL:-envbuild-updates@localhost}
title='locks: what moved since last week'
forge=${ENVBUILD_FORGE:-${GITLAB_CI:+gitlab}}
forge=${forge:-github}

# git with the token: read by git's credential helper from the environment, so that no argument shows it.
with_token() {
    if [ "$forge" = gitlab ]; then user=oauth2; else user=x-access-token; fi
    export ENVBUILD_UPDATE_USER="${ENVBUILD_UPDATE_USER:-$user}"
    # shellcheck disable=SC2016  # the helper's shell expands it
    helper='!f() { [ "$1" != get ] || printf "username=%s\npassword=%s\n" "$ENVBUILD_UPDATE_USER" "${ENVBUILD_UPDATE_TOKEN:-}"; }; f'
    git -c credential.helper= -c credential.helper="$helper" "$@"
}

# GitHub: edit the open pull request of the branch, or open one.
on_github() {
    export GH_TOKEN="${GH_TOKEN:-${ENVBUILD_UPDATE_TOKEN:-}}"
    open=$(gh pr list --head "$branch" --base "$base" --state open --json number --jq '.[].number')
    if [ -n "$open" ]; then
        gh pr edit "$open" --title "$title" --body-file "$proposal"
    else
        gh pr create --head "$branch" --base "$base" --title "$title" --body-file "$proposal"
    fi
}

# GitLab: push options open the merge request or change the open one. An option is one line, of at most 64 kB; GitLab
# makes line ends of the two characters \n.
push_to_gitlab() {
    text=$(head -c 30000 "$proposal" | awk '{ printf "%s\\n", $0 }')
    with_token push --force-with-lease="refs/heads/$branch:$there" \
        -o merge_request.create -o merge_request.target="$base" -o merge_request.remove_source_branch \
        -o merge_request.title="$title" -o merge_request.description="$text" \
        "$remote" "HEAD:refs/heads/$branch"
}

if ! [ -s "$proposal" ]; then
    echo 'nothing to propose'
    exit
fi
git switch --quiet --force-create "$branch"
git add --update .
if git diff --cached --quiet; then
    echo 'nothing to propose'
    exit
fi
export GIT_AUTHOR_NAME='envbuild updates' GIT_AUTHOR_EMAIL="$email" GIT_COMMITTER_NAME='envbuild updates' GIT_COMMITTER_EMAIL="$email"
git commit --quiet -m "$title" -m "$(cat "$proposal")"

there=
if with_token fetch --quiet "$remote" "refs/heads/$branch" 2>/dev/null; then
    there=$(git rev-parse FETCH_HEAD)
    if [ "$(git log -1 --format=%ce "$there")" != "$email" ]; then
        printf 'propose.sh: somebody else has committed to %s: it is left as it is\n' "$branch" >&2
        exit 1
    fi
fi
if [ "$forge" = gitlab ]; then
    push_to_gitlab
else
    with_token push --quiet --force-with-lease="refs/heads/$branch:$there" "$remote" "HEAD:refs/heads/$branch"
    on_github
fi
