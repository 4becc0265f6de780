"""How much memory publishing and pulling take: it does not grow with a layer."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from clirun import ROOT, Cli, Done
from shop import Shop
from smallimage import REF, SmallWorld

from envbuild.lock import Artifact, lock_bytes, read_lock

pytestmark = pytest.mark.network

BLOCK = 1 << 20
BLOCKS = 300
MOST = 100_000
"""KiB. Seen: 67,000 for publishing and 48,000 for pulling, of which 45,000 are the interpreter and its modules."""

PEAK = """
import re, sys
from pathlib import Path
from envbuild.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(re.search("VmHWM:.*", Path("/proc/self/status").read_text())[0], file=sys.stderr)
"""


@dataclass(frozen=True)
class Measured(Cli):
    """The command line, which tells the most memory that its own process had: its children's is not in it."""

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", PEAK, *arguments]


def peak(done: Done) -> int:
    """KiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", done.err)
    assert found is not None, done
    return int(found[1])


@pytest.fixture
def big(small: SmallWorld) -> Iterator[Artifact]:
    """A wheel of 300 MB that deflate makes no smaller."""
    path = small.store.root / "tmp/big-1.0-py3-none-any.whl"
    block, whole = random.Random(5).randbytes(BLOCK), hashlib.sha256()
    for _ in range(BLOCKS):
        whole.update(block)
    info = "big-1.0.dist-info"
    files = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: big\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [("big/data.bin", whole.digest(), BLOCKS * BLOCK)]
    record += [(name, hashlib.sha256(text.encode()).digest(), len(text)) for name, text in files.items()]
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{size}\n"
        for name, digest, size in record
    ]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("big/data.bin", "w") as stream:
            for _ in range(BLOCKS):
                stream.write(block)
        for name, text in files.items():
            archive.writestr(name, text)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    small.store.adopt(path)
    yield Artifact(
        kind="wheel",
        name="big",
        version="1.0",
        file=path.name,
        size=size,
        sha256=sha256,
        index="python",
        uploaded="2026-01-02T03:04:05Z",
    )
    small.store.artifact(sha256).unlink()


def test_less_than_100_mb_for_a_layer_of_300(shop: Shop, big: Artifact, tmp_path: Path) -> None:
    """Built and pushed; then streamed from the wheel, with no layer in the store; then pulled."""
    path = shop.recipes / REF.replace(":", "/") / "lock.json"
    wheels = tuple(sorted((*shop.lock.python, big), key=lambda item: item.name))
    path.write_bytes(lock_bytes(replace(shop.lock, python=wheels, image=None)))
    env = {**shop.cli.env, "PYTHONPATH": str(ROOT)}
    there = replace(shop, cli=Measured(folder=shop.cli.folder, env=env))
    first = there.publish("--by-digest")
    assert first.code == 0, first.err
    locked = read_lock(path).image
    assert locked is not None
    [large] = [layer for layer in locked.layers if layer.size > BLOCKS * BLOCK]
    (shop.store / "oci/blobs/sha256" / large.digest.removeprefix("sha256:")).unlink()

    second = replace(there, path=f"{shop.path}/streamed")
    streamed = second.publish("--by-digest")
    assert streamed.code == 0, streamed.err
    assert streamed.value["bytes_sent"] == sum(layer.size for layer in locked.layers)
    assert not (shop.store / "oci/blobs/sha256" / large.digest.removeprefix("sha256:")).exists()
    pulling = second.with_env(ENVBUILD_STORE=str(tmp_path / "far"))
    pulled = pulling.cli("pull", f"{second.repo}@{streamed.value['digest']}", "--json")
    assert pulled.code == 0, pulled.err
    assert pulled.value["bytes_fetched"] > BLOCKS * BLOCK
    peaks = [peak(done) for done in (first, streamed, pulled)]
    assert max(peaks) < MOST, peaks
