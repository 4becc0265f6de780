#!/bin/sh
# Let a runner build images: envbuild's sandbox needs user namespaces with a range of ids, and no Docker daemon.
#
# Root needs nothing of it. For an ordinary user who may use sudo without a password (as on the runners that GitHub
# lends) this installs uidmap, gives the user ids, and lifts Ubuntu's ban on user namespaces until the next start.
# Elsewhere it changes nothing; what `envbuild doctor` prints at the end says what the machine can do.
set -eu
user=$(id -un)
ban=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    if ! command -v newuidmap >/dev/null; then
        sudo -n apt-get update -q
        sudo -n apt-get install -y -q --no-install-recommends uidmap
    fi
    if ! grep -q "^$user:" /etc/subuid; then
        sudo -n usermod --add-subuids 700000-765535 --add-subgids 700000-765535 "$user"
    fi
    if [ -e "$ban" ] && [ "$(cat "$ban")" != 0 ]; then
        printf '0\n' | sudo -n tee "$ban" >/dev/null
    fi
fi
envbuild doctor
