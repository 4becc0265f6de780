"""A small real image: a static busybox in one gzip layer, a mark in another. Importable without pytest."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from needed import need

from envbuild.engine.model import ImageRef
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout

MTIME = 1577836800
APPLETS = "sh cat env id ls echo sleep true df pwd wc head tail stat ip tr sort touch mkdir kill hostname"
Files = dict[str, bytes | str]


def tar_layer(layout: Layout, name: str, files: Files, modes: dict[str, int] | None = None) -> Layer:
    """A gzip layer; a ``str`` value is a symlink's target, a name that ends in ``/`` a directory."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.rstrip("/"))
            entry.mtime, entry.mode = MTIME, (modes or {}).get(path, 0o755)
            if path.endswith("/"):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    data = gzip.compress(plain.getvalue(), 1, mtime=0)
    digest = layout.put(data)
    return Layer(name=name, digest=digest, diff_id=of_bytes(plain.getvalue()), size=len(data))


@functools.cache
def busybox_layer() -> tuple[bytes, str]:
    """The blob and its diff_id: compressed once, the same in every test."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.create(Path(folder))
        layer = tar_layer(layout, "base", busybox_files())
        return layout.path(layer.digest).read_bytes(), layer.diff_id


def busybox_files() -> Files:
    files: Files = {"bin/": b"", "bin/busybox": Path(need("busybox")).read_bytes()}
    files |= {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    files |= {
        "tmp/": b"",
        "dev/": b"",
        "proc/": b"",
        "sys/": b"",
        "etc/": b"",
        "root/": b"",
        "work/": b"",
        "run/": b"",
    }
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\nworker:x:1000:\nvideo:x:44:worker\n"
    return files


def make_image(
    layout: Layout,
    *extra: Layer,
    tag: str = "v1-candidate",
    entrypoint: tuple[str, ...] = (),
    cmd: tuple[str, ...] = ("sh",),
    env: dict[str, str] | None = None,
    user: str = "",
    mark: str = "",
) -> ImageRef:
    """An image of busybox, a file with ``mark``, and the given layers on top."""
    blob, diff_id = busybox_layer()
    base = Layer(name="base", digest=layout.put(blob), diff_id=diff_id, size=len(blob))
    own = tar_layer(layout, "own", {"etc/mark": mark.encode()}, {"etc/mark": 0o644})
    image = Image(
        layers=(base, own, *extra),
        run=RunConfig(
            env={"PATH": "/bin", "FROM_IMAGE": "image", **(env or {})},
            entrypoint=entrypoint,
            cmd=cmd,
            working_dir="/work",
            user=user,
            labels={},
        ),
        created="2020-01-01T00:00:00Z",
    )
    layout.put(image.config_bytes)
    manifest = layout.put(image.manifest_bytes)
    assert manifest == image.digest
    return ImageRef.read(layout, manifest, (f"envbuild-test:{mark[:12]}-{tag}",))
