"""The recipe that the tests lock, and what locks it."""

from __future__ import annotations

from collections.abc import Callable

from envbuild.lock import Lock
from envbuild.progress import SilentProgress
from envbuild.recipe import Ref
from envbuild.store import Http
from envbuild.store.retry import Patience

RECIPE = """\
description = "PyTorch for tests"

[python]
version = "3.11"
packages = ["tqdm"]

[torch]
version = "2.7.1"

[cuda]
version = "12.6"
cudnn = "9.5.1.17"
nccl = "2.26.2"

[deepspeed]
version = "0.19.8"
operators = ["fused_adam"]
architectures = ["8.0", "9.0+PTX"]

[debian]
release = "bookworm"
packages = ["less"]

[gate]
gpus = 2
"""

MANYLINUX = "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64"
CP311 = "cp311-cp311-manylinux_2_28_x86_64"
REF = Ref(name="tiny", tag="v1")


class Notes(SilentProgress):
    """Progress that remembers what it was told to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def impatient(environ: dict[str, str]) -> Http:
    """Connections that give up at once."""
    return Http(environ=environ, patience=Patience(tries=1))


Locker = Callable[..., Lock]
