"""What conda's own configuration says: ``channel_alias``, ``custom_channels``, certificates, proxies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.document import bounded

if TYPE_CHECKING:
    from rattler import Config

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condarc:
    """The keys that count here. ``ssl_verify`` is conda's: true, false, or a file with certificates."""

    channel_alias: str | None = field(default=None, repr=False)
    custom_channels: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssl_verify: bool | str = True
    proxy_servers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def place(self, name: str) -> str | None:
        """Where conda would look for the channel: under its entry of ``custom_channels``, or ``channel_alias``."""
        first = name.partition("/")[0]
        base = self.custom_channels.get(name) or self.custom_channels.get(first) or self.channel_alias
        return f"{base.rstrip('/')}/{name}/" if base else None

    def client_config(self) -> Config:
        """The client's settings.

        Raises:
            EnvbuildError: exit 2, a proxy that is no address.
        """
        from rattler import Config

        try:
            return Config.from_toml(self.client_toml())
        except ValueError as error:
            raise EnvbuildError(
                "wrong-condarc", f"a proxy of conda's configuration is no address: {str(error).splitlines()[-1]}",
                hint="Write proxy_servers as http://HOST:PORT in .condarc, or set CONDARC=/dev/null.", exit=Exit.USAGE,
            ) from None  # fmt: skip

    def client_toml(self) -> str:
        """The client's settings as py-rattler reads them."""
        lines = ['tls-root-certs = "system"']
        if self.ssl_verify is False:
            lines.append("tls-no-verify = true")
        proxies = [
            f"{key} = {json.dumps(self.proxy_servers[key])}"
            for key in ("http", "https")
            if self.proxy_servers.get(key)
        ]
        if proxies:
            lines += ["[proxy-config]", *proxies]
        return "\n".join(lines) + "\n"


def read_condarc(environ: Mapping[str, str]) -> Condarc:
    """Read conda's configuration files in conda's order (the later one counts), then its variables.

    Raises:
        EnvbuildError: exit 2, a file that is not YAML, or a key of a wrong type.
    """
    merged: dict[str, Any] = {}
    channels: dict[str, str] = {}
    for path in _files(environ):
        values = _mapping(path, environ)
        channels |= _texts(path, "custom_channels", values.pop("custom_channels", None))
        merged |= {key: value for key, value in values.items() if value is not None}
        merged["proxy_servers"] = _texts(path, "proxy_servers", merged.get("proxy_servers"))
    alias = environ.get("CONDA_CHANNEL_ALIAS") or merged.get("channel_alias")
    verify = environ.get("CONDA_SSL_VERIFY") or merged.get("ssl_verify", True)
    if isinstance(verify, str) and verify.lower() in ("false", "true"):
        verify = verify.lower() == "true"
    return Condarc(
        channel_alias=alias if isinstance(alias, str) else None,
        custom_channels=channels,
        ssl_verify=verify if isinstance(verify, bool | str) else True,
        proxy_servers=merged.get("proxy_servers", {}),
    )


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """conda's search path (its ``context.py``) without the folders of an installed conda."""
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    candidates = [Path("/etc/conda/.condarc"), Path("/etc/conda/condarc")]
    if environ.get("XDG_CONFIG_HOME"):
        candidates.append(Path(environ["XDG_CONFIG_HOME"]) / "conda/.condarc")
    if home is not None:
        candidates += [home / ".config/conda/.condarc", home / ".conda/.condarc", home / ".condarc"]
    if environ.get("CONDA_PREFIX"):
        candidates.append(Path(environ["CONDA_PREFIX"]) / ".condarc")
    if environ.get("CONDARC"):
        candidates.append(Path(environ["CONDARC"]))
    yield from (path for path in dict.fromkeys(candidates) if path.is_file())


def _mapping(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        with bounded():
            values = yaml.safe_load(_expanded(text, environ))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that is none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _wrong(path, f"conda's configuration cannot be read: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise _wrong(path, "conda's configuration is no mapping")
    return values


def _texts(path: Path, key: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or any(not isinstance(item, str) for item in value.values()):
        raise _wrong(path, f"{key} must map names to addresses")
    return {str(name): address for name, address in value.items()}


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    """conda replaces ``$NAME`` and ``${NAME}`` where the variable is set."""
    return _VARIABLE.sub(lambda match: environ.get(match.group(1) or match.group(2), match.group()), text)


def _wrong(path: Path, message: str) -> EnvbuildError:
    return EnvbuildError(
        "wrong-condarc", message, exit=Exit.USAGE, where=str(path),
        hint="Correct the file, or say where the channel is with --channel NAME=URL and CONDARC=/dev/null.",
    )  # fmt: skip
