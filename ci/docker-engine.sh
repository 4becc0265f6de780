#!/bin/sh
# Install and start a Docker engine on a Debian 12 machine, as root. Run it again at any time: what is there stays.
#
#   ci/docker-engine.sh              install what is missing, start dockerd, wait until it answers
#   ci/docker-engine.sh --no-start   install only
#
# Debian 12 has Docker 20.10, Debian 13 (trixie) has 26.1, whose packages run on Debian 12. They are taken from the
# mirror that this machine's apt already uses; the trixie source is pinned low, so that nothing else comes from it.
# With pigz on its PATH dockerd inflates layers in a process of its own, which makes a pull up to twice as fast.
# The daemon runs in a session of its own and survives this script; its log is /var/log/dockerd.log.
# Exit: 0 an engine answers, 1 otherwise (the reason and the end of the log are on stderr).
set -eu

SUITE=trixie
SOURCE=/etc/apt/sources.list.d/envbuild-docker.sources
PIN=/etc/apt/preferences.d/envbuild-docker
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
SOCKET=/var/run/docker.sock
LOG=/var/log/dockerd.log
WAIT=60 # seconds for the socket to answer
export DEBIAN_FRONTEND=noninteractive
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH" # the packages of Debian before a stray client

say() { printf 'docker-engine: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

answers() { curl --silent --fail --max-time 5 --unix-socket "$SOCKET" http://engine/_ping >/dev/null 2>&1; }

# The mirror of the machine's own Debian main archive (the suite named after this release, without -updates or -security).
mirror() {
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # $(...) is apt's own template language
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
        awk -v release="$codename" '$2 == release && $3 == "main" { print $1; exit }'
}

apt_install() { apt-get install -y -q --no-install-recommends "$@" >&2; }

add_source() {
    uri=$(mirror)
    [ -n "$uri" ] || return 1
    [ -r "$KEYRING" ] || return 1
    cat >"$SOURCE" <<END
Types: deb
URIs: $uri
Suites: $SUITE
Components: main
Signed-By: $KEYRING
END
    cat >"$PIN" <<END
Package: *
Pin: release n=$SUITE
Pin-Priority: 100
END
    if ! apt-get update -q >&2 || ! apt-cache madison docker.io | grep -q "$SUITE/"; then
        rm -f "$SOURCE" "$PIN"
        return 1
    fi
}

install_engine() {
    if command -v dockerd >/dev/null; then
        say "already installed: $(dockerd --version)"
        return
    fi
    [ "$(id -u)" = 0 ] || die "installing needs root: run it with sudo"
    command -v apt-get >/dev/null || die "this is not Debian: install Docker 23 or newer as your distribution says"
    apt-get update -q >&2 || die "apt-get update failed: check /etc/apt/sources.list.d and the network"
    apt_install ca-certificates curl iptables pigz procps || die "cannot install curl, iptables and pigz"
    if add_source && apt_install "docker.io/$SUITE" "docker-cli/$SUITE" "docker-buildx/$SUITE" "containerd/$SUITE"; then
        say "installed from $SUITE: $(dockerd --version)"
        return
    fi
    say "no packages from $SUITE: taking this release's own Docker"
    rm -f "$SOURCE" "$PIN"
    apt-get update -q >&2 || true
    apt_install docker.io || die "cannot install docker.io: see apt's messages above"
    say "installed: $(dockerd --version)"
}

# Start dockerd with the given options in its own session and wait; 1 if it died or never answered.
start_with() {
    say "starting: dockerd $*"
    setsid --fork dockerd "$@" </dev/null >>"$LOG" 2>&1
    waited=0
    while [ "$waited" -lt "$WAIT" ]; do
        if answers; then return 0; fi
        sleep 1
        waited=$((waited + 1))
        pgrep -x dockerd >/dev/null || return 1
    done
    return 1
}

start_engine() {
    if answers; then
        say "already running"
        return
    fi
    [ "$(id -u)" = 0 ] || die "starting dockerd needs root: run it with sudo"
    if pgrep -x dockerd >/dev/null; then
        die "dockerd runs but $SOCKET does not answer: see $LOG"
    fi
    rm -f /var/run/docker.pid "$SOCKET"
    : >"$LOG"
    if ! start_with; then
        pgrep -x dockerd >/dev/null && die "dockerd did not answer within $WAIT s: see $LOG"
        say "dockerd ended; once more without its packet filter rules (containers then need --network host for the network)"
        tail -n 5 "$LOG" >&2
        start_with --iptables=false --ip6tables=false || {
            tail -n 40 "$LOG" >&2
            die "dockerd does not start: the end of $LOG is above"
        }
    fi
    say "running: server $(/usr/bin/docker --host "unix://$SOCKET" version --format '{{.Server.Version}}')"
}

start=yes
case "${1:-}" in
"") ;;
--no-start) start=no ;;
*) die "unknown option $1 (--no-start)" ;;
esac
install_engine
[ "$start" = no ] || start_engine
