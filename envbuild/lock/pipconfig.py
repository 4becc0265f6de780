"""The few settings of pip that uv does not read: pip's documented files and variables ("Configuration")."""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PipConfig:
    """What pip would use: the index, a certificate bundle, a proxy."""

    index_url: str | None = None
    cert: str | None = None
    proxy: str | None = None


def read(environ: Mapping[str, str], *, system: Path = Path("/etc/pip.conf")) -> PipConfig:
    """Files first, from the system's to the environment's own, then ``PIP_*`` variables, which win."""
    values: dict[str, str] = {}
    for path in _files(environ, system):
        values.update(_file(path))
    for key in ("index-url", "cert", "proxy"):
        text = environ.get("PIP_" + key.upper().replace("-", "_"), "").strip()
        if text:
            values[key] = text
    return PipConfig(index_url=values.get("index-url"), cert=values.get("cert"), proxy=values.get("proxy"))


def _files(environ: Mapping[str, str], system: Path) -> Iterator[Path]:
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == "/dev/null":
        return
    for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        if folder:
            yield Path(folder) / "pip" / "pip.conf"
    yield system
    home = environ.get("HOME")
    if home:
        yield Path(home) / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def _file(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}  # pip itself reports a broken file of its own
    found: dict[str, str] = {}
    for section in ("global", "install", "download"):
        if parser.has_section(section):
            for key, value in parser.items(section):
                if key.replace("_", "-") in ("index-url", "cert", "proxy") and value.strip():
                    found[key.replace("_", "-")] = value.strip()
    return found
