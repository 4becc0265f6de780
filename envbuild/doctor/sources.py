"""What locking and fetching need: apt's settings, gpgv, a keyring, the indexes, proxies, certificates.

Addresses may hold passwords and are nobody's business in a bug report: they are never printed, only whose setting
they come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from envbuild.doctor.report import Finding, State
from envbuild.errors import EnvbuildError
from envbuild.lock.indexes import Indexes
from envbuild.store import Http
from envbuild.store.retry import Patience

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SUITE = "bookworm"
_SECONDS = 10.0
_LIMIT = 16 << 20


def apt(environ: Mapping[str, str]) -> Finding:
    """Whether apt tells where Debian's packages are."""
    if environ.get("ENVBUILD_DEBIAN_MIRROR"):
        return Finding(id="apt", state=State.GOOD, detail="not needed: ENVBUILD_DEBIAN_MIRROR is set")
    if shutil.which("apt-get", path=environ.get("PATH")):
        return Finding(id="apt", state=State.GOOD, detail="its settings tell where Debian's packages are")
    return Finding(
        id="apt",
        state=State.WARNING,
        detail="this machine has no apt, so nothing tells where Debian's packages are",
        fix="set ENVBUILD_DEBIAN_MIRROR to a mirror's address, or build on --base IMAGE@sha256:…",
    )


def gpgv(environ: Mapping[str, str]) -> Finding:
    """gpgv checks the signature of Debian's metadata when locking."""
    if program := shutil.which("gpgv", path=environ.get("PATH")):
        return Finding(id="gpgv", state=State.GOOD, detail=program)
    return Finding(
        id="gpgv",
        state=State.MISSING,
        detail="gpgv is not installed: Debian's metadata cannot be verified",
        fix="Debian, Ubuntu: sudo apt-get install gpgv; Fedora: gnupg2; only `envbuild lock` needs it",
    )


def keyring(environ: Mapping[str, str]) -> Finding:
    """Debian's public keys."""
    named = environ.get("ENVBUILD_DEBIAN_KEYRING")
    path = Path(named) if named else KEYRING
    if path.is_file():
        return Finding(id="keyring", state=State.GOOD, detail=str(path))
    return Finding(
        id="keyring",
        state=State.MISSING,
        detail=f"no keyring at {path}: Debian's metadata cannot be verified",
        fix="sudo apt-get install debian-archive-keyring, or set ENVBUILD_DEBIAN_KEYRING; only locking needs it",
    )


def debian_mirror(environ: Mapping[str, str]) -> Finding:
    """Whether the Debian mirror answers."""
    hint = "set ENVBUILD_DEBIAN_MIRROR to a mirror's address, or repair apt's sources"
    try:
        mirror = Indexes.from_machine(environ).debian
    except EnvbuildError as error:
        return _unreachable("debian-mirror", error.message, error.hint)
    if mirror is None:
        return _unreachable("debian-mirror", "no Debian mirror is configured on this machine", hint)
    return _reached(
        "debian-mirror", f"{mirror.rstrip('/')}/dists/{_SUITE}/InRelease", "the Debian mirror", environ
    )


def python_index(environ: Mapping[str, str]) -> Finding:
    """Whether Python's package index answers."""
    try:
        indexes = Indexes.from_machine(environ)
        addresses = indexes.python
    except EnvbuildError as error:
        return _unreachable("python-index", error.message, error.hint)
    if not addresses:
        return _unreachable(
            "python-index",
            "no Python index is configured",
            "set ENVBUILD_PYTHON_INDEX, or index-url in pip.conf",
        )
    page = f"{addresses[-1].rstrip('/')}/packaging/"
    return _reached("python-index", page, "the Python index", indexes.environ)


def proxies(environ: Mapping[str, str]) -> Finding:
    """Which proxy variables are set; their values are not shown."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    seen = [name for name in environ if name.lower() in names and environ[name]]
    return Finding(
        id="proxies",
        state=State.GOOD,
        detail=f"seen: {', '.join(sorted(seen))}" if seen else "none set",
        facts={"variables": sorted(seen)},
    )


def certificates(environ: Mapping[str, str]) -> Finding:
    """Which certificate settings are used beside the system's."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
    seen = {name: environ[name] for name in names if environ.get(name)}
    gone = [name for name, path in seen.items() if not Path(path).exists()]
    if gone:
        return Finding(
            id="certificates",
            state=State.MISSING,
            detail=f"{gone[0]} names {seen[gone[0]]}, which does not exist",
            fix=f"correct or unset {gone[0]}",
            facts={"variables": sorted(seen)},
        )
    used = next(iter(seen.items()), None)
    detail = f"{used[0]}: {used[1]}" if used else "the system's own"
    return Finding(id="certificates", state=State.GOOD, detail=detail, facts={"variables": sorted(seen)})


def _reached(id: str, url: str, label: str, environ: Mapping[str, str]) -> Finding:
    try:
        http = Http(
            environ=environ, connect_timeout=_SECONDS, read_timeout=_SECONDS, patience=Patience(tries=1)
        )
        http.get(url, label=label, limit=_LIMIT)
    except EnvbuildError as error:
        return _unreachable(id, error.message, error.hint)
    return Finding(id=id, state=State.GOOD, detail=f"{label} answers", facts={"reachable": True})


def _unreachable(id: str, message: str, hint: str) -> Finding:
    return Finding(id=id, state=State.MISSING, detail=message, fix=hint, facts={"reachable": False})
