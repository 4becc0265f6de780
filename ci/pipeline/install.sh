#!/bin/sh
# Give a runner envbuild, in a virtual environment of its own, and put it on the PATH of the steps that follow.
#
#   ENVBUILD_PACKAGE   what pip installs: a requirement, or this checkout [default: .]
#   ENVBUILD_VENV      where to [default: .ci-venv]
#   GITHUB_PATH        GitHub's file of folders for the PATH; GitLab's jobs say it themselves
#
# pip asks the index that its own configuration names. A bare Debian or Ubuntu as root gets python3, venv and git first.
set -eu
package=${ENVBUILD_PACKAGE:-.}
venv=${ENVBUILD_VENV:-.ci-venv}
if ! python3 -c 'import ensurepip, venv' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q --no-install-recommends python3 python3-venv ca-certificates git
fi
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "$package"
bin=$(cd "$venv/bin" && pwd)
if [ -n "${GITHUB_PATH:-}" ]; then
    printf '%s\n' "$bin" >>"$GITHUB_PATH"
fi
"$bin/envbuild" --version
