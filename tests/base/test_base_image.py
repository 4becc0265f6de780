"""An image from a registry as the base: flattened, and refused with the reason where nothing can be built on it."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.base_image import base_from_image
from envbuild.oci.descriptor import LAYER_TAR
from envbuild.oci.layer import Layer
from envbuild.progress import SilentProgress
from envbuild.store import Store


def layer_of(store: Store, files: dict[str, bytes], mode: int = 0o755) -> Layer:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    digest = store.layout.put(stream.getvalue())
    assert digest == "sha256:" + hashlib.sha256(stream.getvalue()).hexdigest()
    return Layer(name="x", digest=digest, diff_id=digest, size=len(stream.getvalue()), media_type=LAYER_TAR)


def refusal(layers, sandbox, store) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        base_from_image(
            "registry/x@sha256:1", layers, sandbox=sandbox, store=store, progress=SilentProgress()
        )
    assert (caught.value.id, caught.value.exit) == ("base-unfit", Exit.INPUT)
    assert "registry/x@sha256:1" in caught.value.message
    return caught.value


def test_an_image_without_python_is_refused(sandbox, tmp_path):
    store = Store.open(tmp_path / "store")
    error = refusal([layer_of(store, {"etc/os-release": b""})], sandbox, store)
    assert "no /usr/bin/python3.11" in error.message


@pytest.mark.real
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('[[3, 11], "glibc 2.17"]', "glibc 2.17"),
        ('[[3, 12], "glibc 2.36"]', "Python 3.12"),
        ("[[3, 11], null]", "C library"),
        ("", "exit status 0"),
        ("hello", "no version"),
        ('{"a": 1}', "no version"),
        ('[["x", 11], "glibc 2.36"]', "no version"),
    ],
)
def test_an_image_that_cannot_take_the_wheels_is_refused(base, sandbox, answer, reason):
    store = base.store
    fake = layer_of(store, {"usr/bin/python3.11": f"#!/bin/sh\nprintf '%s' '{answer}'\n".encode()})
    assert reason in refusal([base.layer, fake], sandbox, store).message


@pytest.mark.real
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_layers_are_flattened_and_the_root_is_kept(base, sandbox):
    top = layer_of(base.store, {"etc/.wh.inputrc": b"", "etc/added": b"x"})
    silent = SilentProgress()
    root = base_from_image("x", [base.layer, top], sandbox=sandbox, store=base.store, progress=silent)
    assert (base.root / "etc/inputrc").exists()
    assert not (root / "etc/inputrc").exists()
    assert (root / "etc/added").read_bytes() == b"x"
    assert base_from_image("x", [base.layer, top], sandbox=sandbox, store=base.store, progress=silent) == root
