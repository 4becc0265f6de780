"""What stands in for micromamba in the tests: it cannot be had from any index that the tests may ask.

It takes exactly the options that the rendered Dockerfile uses and installs with py-rattler. `pack` makes it one
executable file, as micromamba is one; that file needs a Python 3.11 at /usr/bin/python3.11.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

_LINE = re.compile(
    r"(?P<place>(?P<root>.*)/(?P<subdir>[^/]+)/(?P<file>[^/#]+))(#(sha256:)?(?P<sha256>[0-9a-f]{64}))?"
)


def pack(target: Path) -> Path:
    """Write the program to ``target``."""
    import rattler

    package = Path(rattler.__file__).parent
    with target.open("wb") as out:
        out.write(b"#!/usr/bin/python3.11\n")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(__file__, "__main__.py")
            for path in sorted(package.rglob("*")):
                if path.is_file() and path.suffix != ".pyc":
                    archive.write(path, f"rattler/{path.relative_to(package)}")
    target.chmod(0o755)
    return target


def main(argv: list[str]) -> None:
    options = _options(argv)
    lines = [line for line in options.file.read_text().splitlines() if line and not line.startswith("#")]
    if lines[:1] != ["@EXPLICIT"]:
        raise SystemExit(f"{options.file}: no @EXPLICIT")
    matches = []
    for line in lines[1:]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise SystemExit(f"{options.file}: {line}")
        matches.append(match)
    if options.download_only:
        _download(matches, options.root_prefix / "pkgs")
        return
    if options.prefix.exists():
        raise SystemExit(f"{options.prefix} exists")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(sys.argv[0]) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith("rattler/")])
        sys.path.insert(0, folder)
        asyncio.run(_install(matches, options))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="micromamba", allow_abbrev=False)
    create = parser.add_subparsers(required=True).add_parser("create", allow_abbrev=False)
    for flag in ("--no-rc", "--no-env", "--yes"):
        create.add_argument(flag, action="store_true", required=True)
    for flag in ("--no-pyc", "--download-only"):
        create.add_argument(flag, action="store_true")
    create.add_argument("--ssl-verify")
    for name in ("--root-prefix", "--prefix", "--file"):
        create.add_argument(name, type=Path, required=True)
    return parser.parse_args(argv)


def _download(matches: list[re.Match[str]], folder: Path) -> None:
    folder.mkdir(parents=True)
    for match in matches:
        with urllib.request.urlopen(match["place"]) as answer:
            data = answer.read()
        if match["sha256"] and hashlib.sha256(data).hexdigest() != match["sha256"]:
            raise SystemExit(f"{match['place']} is not what its hash says")
        (folder / match["file"]).write_bytes(data)


async def _install(matches: list[re.Match[str]], options: argparse.Namespace) -> None:
    from rattler import PackageRecord, RepoDataRecord, install
    from rattler.package import IndexJson
    from rattler.package_streaming import extract

    records = []
    for match in matches:
        path = Path(match["place"])
        data = path.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            extract(path, folder)
            index = Path(folder, "info/index.json")
            IndexJson.from_path(index)
            record = PackageRecord.from_index_json(
                index, len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
            )
        url = f"file://{path}"
        records.append(RepoDataRecord(record, path.name, url, f"file://{match['root']}/"))
    await install(
        records,
        options.prefix,
        cache_dir=options.root_prefix / "pkgs",
        show_progress=False,
        execute_link_scripts=False,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
