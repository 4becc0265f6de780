"""An image from a registry as the base: its layers flattened into one root, and whether envbuild can build on it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import PYTHON
from envbuild.layers.interpreter import ENV
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.sandbox import Command, Rootfs, Sandbox
from envbuild.sandbox.unpack import unpack_flat
from envbuild.store import Store

GLIBC = (2, 28)
"""The oldest C library that the wheels run on (manylinux_2_28)."""

_QUESTION = (
    "import json, os, sys, zlib; print(json.dumps([sys.version_info[:2], os.confstr('CS_GNU_LIBC_VERSION')]))"
)


def base_from_image(
    image: str, layers: Sequence[Layer], *, sandbox: Sandbox, store: Store, progress: Progress
) -> Path:
    """Unpack a pulled image into one root, and check that the Python environment can live in it.

    Args:
        image: how the user named it, for messages.
        layers: bottom first; their blobs lie in the store's layout.
        sandbox: unpacks, and asks the image's interpreter.
        store: has the blobs and gets the root.
        progress: shown in compressed bytes.

    Returns:
        The root, ``store.roots / <ChainID>``, with all whiteouts applied.

    Raises:
        EnvbuildError: exit 3, the image has no usable Python 3.11 or too old a C library; 5, a layer is damaged.
    """
    blobs = [(layer.diff_id, store.layout.path(layer.digest)) for layer in layers]
    root = unpack_flat(sandbox, blobs, store.roots, progress=progress)
    version, libc = _ask(image, root, sandbox)
    found = tuple(int(part) for part in libc.removeprefix("glibc ").split(".")[:2] if part.isdigit())
    if not libc.startswith("glibc ") or found < GLIBC:
        wanted = ".".join(map(str, GLIBC))
        raise _unfit(image, f"its C library is {libc}; the wheels need glibc {wanted} or newer")
    if f"python{version[0]}.{version[1]}" != PYTHON:
        raise _unfit(image, f"its /usr/bin/{PYTHON} says that it is Python {version[0]}.{version[1]}")
    return root


def _ask(image: str, root: Path, sandbox: Sandbox) -> tuple[list[int], str]:
    command = Command(argv=(f"/usr/bin/{PYTHON}", "-I", "-c", _QUESTION), env=ENV)
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        try:
            code = sandbox.run(Rootfs(lowers=(root,)), command, stdout=answer, stderr=said)
        except EnvbuildError as error:
            if error.id != "command-not-run":
                raise
            raise _unfit(image, f"it has no /usr/bin/{PYTHON}") from error
        answer.seek(0)
        said.seek(0)
        text, complaint = answer.read(), said.read().decode(errors="replace").strip()
    if code or not text:
        raise _unfit(image, f"its /usr/bin/{PYTHON} does not run: {complaint or f'exit status {code}'}")
    try:
        (major, minor), libc = json.loads(text)
        return [int(major), int(minor)], str(libc or "not glibc")
    except (ValueError, TypeError):
        raise _unfit(image, f"its /usr/bin/{PYTHON} gives no version but {text[:80]!r}") from None


def _unfit(image: str, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "base-unfit",
        f"{image} cannot be the base: {reason}",
        hint=f"choose an image with glibc {'.'.join(map(str, GLIBC))} or newer and {PYTHON} with its zlib in /usr/bin, "
        "or leave out --base for Debian 12",
        exit=Exit.INPUT,
    )
