"""Where this machine finds packages: asked of ``ENVBUILD_*``, uv, pip and apt, so that no host is in code or lock."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import pipconfig
from envbuild.lock.python import uv

_DEBIAN_SUITE = re.compile(
    r"(bullseye|bookworm|trixie|forky|duke|sid|oldoldstable|oldstable|stable|testing|unstable)"
    r"([-/](updates|security|backports|backports-sloppy|proposed-updates))*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """This machine's package sources. URLs may hold credentials: they are never printed or stored.

    ``environ`` is the environment for uv and for HTTP: the caller's, with what pip's and apt's configuration add
    (an index, a certificate bundle, a proxy). ``debian`` and ``debian_security`` are the addresses that
    ``dists/`` and ``pool/`` lie under; ``None`` where the machine has none. ``artifacts`` is a mirror of files by
    hash (``ENVBUILD_ARTIFACT_MIRROR``). ``keyring`` checks the signatures of Debian's indexes.
    """

    environ: Mapping[str, str] = field(repr=False)
    debian: str | None = field(default=None, repr=False)
    debian_security: str | None = field(default=None, repr=False)
    keyring: Path | None = None
    artifacts: str | None = field(default=None, repr=False)

    @classmethod
    def from_machine(cls, environ: Mapping[str, str]) -> Indexes:
        """Ask the machine.

        Python's index is the first of: ``ENVBUILD_PYTHON_INDEX``; what uv's own configuration or variables say;
        pip's ``index-url``; uv's default. Debian's mirror is ``ENVBUILD_DEBIAN_MIRROR`` (and
        ``ENVBUILD_DEBIAN_SECURITY_MIRROR``), or what apt uses for a suite of Debian.

        Raises:
            EnvbuildError: exit 2 where a variable holds no usable address.
        """
        merged = _python_environ(environ)
        main, security = _debian_mirrors(environ)
        proxy = _apt_proxy() if main and not environ.get("ENVBUILD_DEBIAN_MIRROR") else None
        if proxy and not any(
            environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
        ):
            merged["http_proxy"] = proxy
        keyring = environ.get("ENVBUILD_DEBIAN_KEYRING")
        return cls(
            environ=merged, debian=main, debian_security=security,
            keyring=Path(keyring) if keyring else None,
            artifacts=_address(environ, "ENVBUILD_ARTIFACT_MIRROR"),
        )  # fmt: skip

    @property
    def python(self) -> tuple[str, ...]:
        """The simple indexes that uv asks, in its order: further ones first, the default last."""
        return uv.index_urls(self.environ)


def _python_environ(environ: Mapping[str, str]) -> dict[str, str]:
    merged = dict(environ)
    own = _address(environ, "ENVBUILD_PYTHON_INDEX")
    pip = pipconfig.read(environ)
    if pip.cert and not any(environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")):
        merged["SSL_CERT_FILE"] = pip.cert
    if pip.proxy and not any(
        environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    ):
        merged["https_proxy"] = pip.proxy
    if own:
        for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
            merged.pop(name, None)
        merged["UV_DEFAULT_INDEX"] = own
    elif pip.index_url and not uv.has_own_index(environ):
        merged["UV_DEFAULT_INDEX"] = pip.index_url
    return merged


def _address(environ: Mapping[str, str], name: str) -> str | None:
    """An http, https or file URL (a plain path becomes one) from the environment, without a slash at its end."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    if text.startswith("/"):
        text = Path(text).as_uri()
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - refuses a port that is none
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https", "file") or not (parts.hostname or parts.scheme == "file"):
        raise EnvbuildError(
            "wrong-address", f"{name} holds no http, https or file address",
            hint=f"Set {name} to an address such as https://HOST/PATH, or unset it.", exit=Exit.USAGE, where=name,
        )  # fmt: skip
    return text.rstrip("/")


def _debian_mirrors(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    main = _address(environ, "ENVBUILD_DEBIAN_MIRROR")
    security = _address(environ, "ENVBUILD_DEBIAN_SECURITY_MIRROR")
    if main:
        return main, security or main + "-security"
    found: dict[bool, str] = {}
    for line in _apt_targets().splitlines():
        address, _, suite = line.strip().rpartition(" ")
        if _DEBIAN_SUITE.fullmatch(suite) and urlsplit(address).scheme in ("http", "https", "file"):
            found.setdefault("security" in suite, address.rstrip("/"))
    return found.get(False), security or found.get(True)


def _apt_targets() -> str:
    """Address and suite of each source, a line each: without lists, so that apt reads no cache and needs no update."""
    with tempfile.TemporaryDirectory(prefix="envbuild-apt-") as empty:
        options = [
            "--no-release-info",
            "-o",
            f"Dir::State::lists={empty}/",
            "--format",
            "$(REPO_URI) $(RELEASE)",
        ]
        return _apt("apt-get", "indextargets", *options)


def _apt_proxy() -> str | None:
    text = _apt("apt-config", "shell", "proxy", "Acquire::http::Proxy").strip()
    value = text.removeprefix("proxy=").strip("'\"") if text.startswith("proxy=") else ""
    return value if value and value != "DIRECT" else None


def _apt(*command: str) -> str:
    """What one of apt's programs says; nothing where there is no apt."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        result = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""
