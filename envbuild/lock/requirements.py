"""``requirements.txt``: the image's Python packages with hashes, for pip and uv."""

from __future__ import annotations

from envbuild.lock.model import Lock


def requirements_txt(lock: Lock) -> str:
    """The image's Python packages, pinned and hashed, sorted by name; no address in it.

    DeepSpeed stands in it with its source's hash: the operator is compiled where the file is installed, unless a
    built wheel is at hand.
    """
    packages = sorted(
        [*lock.python, *((lock.native.source,) if lock.native else ())], key=lambda item: item.name
    )
    lines = [
        f"# Exported from the lock of {lock.ref} by `envbuild lock {lock.ref}`. Do not edit.",
        "# Hashes are of the files for CPython 3.11 on Linux, x86-64, glibc 2.36.",
    ]
    lines += [f"{item.name}=={item.version} \\\n    --hash=sha256:{item.sha256}" for item in packages]
    return "\n".join(lines) + "\n"
