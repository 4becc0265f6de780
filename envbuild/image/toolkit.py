"""The layer ``toolkit`` of a recipe with the part ``devel``."""

from __future__ import annotations

from pathlib import Path

from envbuild.layers.format import SITE
from envbuild.layers.packed import pack_folder
from envbuild.native.toolkit import Toolkit, lay_out_toolkit
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.sandbox import Rootfs, Sandbox
from envbuild.store import Store

NAME = "toolkit"


def make_toolkit(
    toolkit: Toolkit, *, base_root: Path, sandbox: Sandbox, store: Store, progress: Progress, jobs: int
) -> Layer:
    """Lay the CUDA toolkit out and pack it, with the base's gzip. All inputs must be in the store.

    Raises:
        EnvbuildError: exit 5, an input is not what it should be; exit 7, the sandbox.
    """
    files = {name: store.artifact(item.sha256) for name, item in toolkit.artifacts.items()}
    with store.scratch(NAME) as work:
        root = work / "root"
        root.mkdir()
        with progress.task("lay out the CUDA toolkit"):
            lay_out_toolkit(toolkit, files, root, site=SITE)
        return pack_folder(
            NAME, root, gzip_root=Rootfs(lowers=(base_root,)), work=work, sandbox=sandbox, store=store,
            progress=progress, jobs=jobs,
        )  # fmt: skip
