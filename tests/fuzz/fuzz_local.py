"""Readers of this machine's files: locks, recipes, settings, records, credentials, configurations."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from fuzz_engine import Reader, Source
from fuzz_mutation import either, json_of, text_of
from fuzz_proofs import EXPECTATIONS

import envbuild
from envbuild.advise.check import check_config
from envbuild.cli.settings import resolve
from envbuild.difference import lister
from envbuild.difference.contents import _record, _rows
from envbuild.difference.dockerfile import of_dockerfile
from envbuild.difference.installed import of_folder
from envbuild.image.locked import from_record
from envbuild.lock import parse_lock
from envbuild.lock.asked import asked_recipe
from envbuild.lock.pipconfig import read as read_pip
from envbuild.recipe import parse_ref
from envbuild.recipe.load import read_recipe
from envbuild.recipe.model import Ref
from envbuild.registry.credentials import find_credentials
from envbuild.smoke.model import BadExpectations, parse_expectations
from envbuild.store import Store
from envbuild.store.gc import _derived, _document
from envbuild.store.network import read_netrc

RECIPES = Path(envbuild.__file__).parents[1] / "recipes"
_COMMITTED = RECIPES / "pytorch-cuda/v2.7"
RECIPE = (_COMMITTED / "recipe.toml").read_text()
_WHOLE = json.loads((_COMMITTED / "lock.json").read_bytes())
LOCK = {
    **_WHOLE,
    "debian": _WHOLE["debian"][:2],
    "python": _WHOLE["python"][:2],
    "native": {
        **_WHOLE["native"],
        "toolchain": _WHOLE["native"]["toolchain"][:1],
        "build": _WHOLE["native"]["build"][:1],
    },
    "image": {**_WHOLE["image"], "layers": _WHOLE["image"]["layers"][:2]},
}
CONFIG = (
    'store = "/tmp/x"\nrecipes = ["a", "b"]\njobs = 4\nengine = "oci"\nplain-http = ["h:1", "h2"]\n'
    'registry = "h/x"\n'
)
DOCKER = {
    "auths": {
        "h.invalid": {"auth": "dXNlcjpwdw==", "identitytoken": "t"},
        "h2": {"username": "u", "password": "p"},
    },
    "credHelpers": {"h9": "gcloud"},
    "HttpHeaders": {"a": "b"},
}
PIP = "[global]\nindex-url = https://user:pw@h.invalid/simple\ncert = /x\n[install]\nproxy: http://p\n  more\n;c\n"
NETRC = "machine h.invalid login user password pw\ndefault login a password b\nmacdef init\nx\n\n"
DEEPSPEED = {
    "train_batch_size": 32,
    "fp16": {"enabled": True, "loss_scale": 0},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e8},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999]}},
    "gradient_clipping": 1.0,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": {},
}
LAYER = {
    "digest": "sha256:" + "ab" * 32,
    "diff_id": "sha256:" + "ab" * 32,
    "size": 9,
    "toc": None,
    "tar_size": 9,
    "of": "x",
    "sha256": "y",
}
META = {
    "name": "demo",
    "version": "1",
    "build": "0",
    "sha256": None,
    "files": ["lib/demo-1.dist-info/RECORD"],
    "paths_data": {"paths": [{"_path": "a", "path_type": "hardlink", "prefix_placeholder": "/x"}]},
}
_RECORD = 'demo/a.py,sha256=x,1\n../../../bin/demo,sha256=y,2\n"a,b",,\n'
_METADATA = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
DOCKERFILE = (
    "ARG BASE=nvidia/cuda:12.6.3-cudnn-devel-ubuntu22.04@sha256:ab\nFROM ${BASE}\n"
    'ENV TORCH_CUDA_ARCH_LIST="7.0 9.0+PTX" \\\n'
    " DS_BUILD_FUSED_ADAM=1\n"
)
REQUIREMENTS = f"# c\ntorch==2.7.1 \\\n    --hash=sha256:{'ab' * 32}\npip==26.0.1 --hash=sha256:{'cd' * 32}\n"
EXPLICIT = f"@EXPLICIT\nhttps://h.invalid/linux-64/python-3.11.2-h1_0.conda#{'ab' * 32}\n"
_SOURCE = Source()


def _lock(data: bytes) -> None:
    asked_recipe(parse_lock(data, Path("small/v1/lock.json")), "small/v1/lock.json")


def _recipe(data: bytes) -> None:
    recipe = read_recipe(_SOURCE(data), Ref(name="fuzz", tag="v1"), [RECIPES])
    recipe.to_dict()
    recipe.conda_dict()


def _config(data: bytes) -> None:
    resolve({"ENVBUILD_CONFIG": str(_SOURCE(data)), "ENVBUILD_RECIPES": "/x"})


def _docker(data: bytes) -> None:
    for account in ("h.invalid", "h2", "h3"):
        find_credentials([account], {"REGISTRY_AUTH_FILE": str(_SOURCE(data)), "PATH": "/nowhere"})


def _pip(data: bytes) -> None:
    read_pip({"PIP_CONFIG_FILE": str(_SOURCE(data)), "XDG_CONFIG_DIRS": "/nowhere"}, system=Path("/nowhere"))


def _netrc(data: bytes) -> None:
    found = read_netrc({"NETRC": str(_SOURCE(data))})
    if found is not None:
        found.authenticators("h.invalid")


class _Kept:
    """A store whose one record is the input."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def __call__(self, data: bytes) -> None:
        if self._store is None:
            self._store = Store.open(Path(tempfile.mkdtemp(dir="/dev/shm", prefix="fuzz-store-")))
            self._store.put_record("layer", "x", {})
        store = self._store
        (store.root / "cache/layer/x.json").write_bytes(data)
        record = store.record("layer", "x")
        _derived(store.root / "cache", {"x"})
        digest = store.layout.put(data) if data[:1] == b"{" and len(data) < 4_000 else None
        if digest is not None:
            _document(store.layout, digest, whole=True)
            store.layout.remove(digest)
        if record is not None:
            with suppress(KeyError, TypeError, ValueError):  # as its callers have it
                from_record("x", record)

    def marker(self, data: bytes) -> None:
        """``store.json``, which tells the store's format."""
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as folder:
            (Path(folder) / "store.json").write_bytes(data)
            Store.open(Path(folder)).close()


def _environment(data: bytes) -> None:
    """An environment whose records are the input: conda's and, in halves, Python's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as name:
        folder = Path(name)
        info = folder / "lib/python3.11/site-packages/demo-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "conda-meta").mkdir()
        (folder / "conda-meta/demo-1-0.json").write_bytes(data)
        (info / "METADATA").write_bytes(_METADATA.encode() + data[: len(data) // 4])
        (info / "RECORD").write_bytes(_RECORD.encode() + data)
        (info / "entry_points.txt").write_bytes(data)
        (folder / "pyvenv.cfg").write_bytes(data)
        of_folder("x", folder)
    _record(data)
    _rows(data)
    lister.without_shebang(data)


def _rendered(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as name:
        folder = Path(name) / "dockerfiles"
        folder.mkdir()
        parts = data.split(b"\n---\n")
        for suffix, part in zip(
            (".Dockerfile", ".requirements.txt", ".conda.txt"), [*parts, b"", b""], strict=False
        ):
            (folder / f"small-v1{suffix}").write_bytes(part)
        of_dockerfile("x", parse_ref("small:v1"), Path(name))


def _expectations(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (
        ValueError,
        RecursionError,
    ):  # the suite is handed a file that envbuild wrote: its form is what counts
        return
    parse_expectations(value)


_KEPT = _Kept()

READERS = [
    Reader(name="lock", make=json_of(LOCK), read=_lock),
    Reader(
        name="recipe",
        make=text_of(
            RECIPE,
            more=(
                "[",
                "[[a]]",
                "= [[",
                "'''",
                "1979-05-27",
                'extends = "v2.8"',
                "makes = []",
                "{a={b={",
                "inf",
                "0xff",
            ),
        ),
        read=_recipe,
    ),
    Reader(
        name="settings",
        make=text_of(CONFIG, more=("[a]", "= [[", "1979-05-27", "{a={b={", "nan")),
        read=_config,
    ),
    Reader(name="docker-credentials", make=json_of(DOCKER), read=_docker),
    Reader(name="pip-configuration", make=text_of(PIP, more=("[global]", "%(x)s", "=", "[")), read=_pip),
    Reader(name="netrc", make=text_of(NETRC), read=_netrc),
    Reader(name="store-record", make=json_of(LAYER), read=_KEPT),
    Reader(name="store-marker", make=json_of({"format": 1}), read=_KEPT.marker),
    Reader(
        name="environment-records",
        make=either(json_of(META), text_of(_RECORD, "[console_scripts]\na = b:c\n", "version = 3.11.2\n")),
        read=_environment,
    ),
    Reader(
        name="rendered-files",
        make=text_of(f"{DOCKERFILE}\n---\n{REQUIREMENTS}\n---\n{EXPLICIT}"),
        read=_rendered,
    ),
    Reader(
        name="deepspeed-configuration",
        make=json_of(DEEPSPEED),
        read=lambda data: check_config(data.decode("utf-8", "replace"), gpus=2),
    ),
    Reader(
        name="suite-expectations", make=json_of(EXPECTATIONS), read=_expectations, answers=(BadExpectations,)
    ),
]
