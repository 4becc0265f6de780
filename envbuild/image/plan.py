"""The plan: which layers an image has, of which inputs, and how its containers start. A pure function of the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.programs import image_facts, ports, programs
from envbuild.layers.base import REVISION
from envbuild.layers.estargz import TRACES
from envbuild.layers.files import FileEntry, folder, venv_entries, whiteout
from envbuild.layers.format import FORMAT, VENV
from envbuild.layers.groups import code_group_of, group_of
from envbuild.lock.model import Artifact, Lock
from envbuild.native.toolkit import HOME, LINK_FLAGS, Toolkit, toolkit_of
from envbuild.oci import digest as digests
from envbuild.oci.image import RunConfig
from envbuild.oci.layer import Layer
from envbuild.recipe.parts import DEVEL

WORKDIR = "/workspace"
LayerKind = Literal["base", "files", "wheels", "bytecode", "toolkit"]

# NCCL 2.24 to 2.26 allocate host memory through cuMem by default, which needs CAP_SYS_NICE in a container
# (docs/reference/image.md); from 2.27 on it falls back by itself.
_CUMEM_HOST_NEEDS_CAPABILITY = ((2, 24), (2, 26))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer before it is made: its kind, its name, its inputs, and the key that names the result.

    ``files`` is the content of a layer of kind ``files``.
    """

    name: str
    kind: LayerKind
    artifacts: tuple[Artifact, ...]
    key: str
    files: tuple[FileEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    """An image of a registry that stands in for the Debian base: its name, digest, layers, variables and init."""

    reference: str
    digest: str
    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    has_tini: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to assemble: ``given`` layers as they are, then ``layers`` to be made."""

    given: tuple[Layer, ...]
    layers: tuple[LayerPlan, ...]
    toolkit: Toolkit | None
    run: RunConfig
    created: str
    annotations: Mapping[str, str]


def plan_image(lock: Lock, *, operator: Artifact | None, base: ImageBase | None = None) -> Plan:
    """Lay out the image of ``lock``.

    Args:
        lock: the lock; its ``image`` part is not looked at.
        operator: DeepSpeed's built wheel; ``None`` only where the recipe has no DeepSpeed.
        base: an image to start from instead of the locked Debian packages.

    Raises:
        EnvbuildError: exit 5 when the lock needs a built wheel and none is given.
    """
    if lock.native is not None and operator is None:
        raise EnvbuildError(
            "no-operator",
            "the lock has DeepSpeed's source but its compiled wheel is not there",
            hint=f"run `envbuild image {lock.ref}`, which compiles it",
            exit=Exit.VERIFY,
        )
    wheels = lock.python if operator is None else (*lock.python, operator)
    debian = LayerPlan(
        name="base", kind="base", artifacts=lock.debian, key=_key("base", lock.debian, str(REVISION))
    )
    layers = [debian] if base is None else []
    layers += [_of_files("files", skeleton(lock))]
    interpreter = interpreter_key(lock) if base is None else base.digest
    packages = [
        LayerPlan(name=name, kind="wheels", artifacts=members, key=_key("wheels", members))
        for name, members in grouped(wheels, group_of).items()
    ]
    packages += [
        LayerPlan(
            name=f"{name}-bytecode",
            kind="bytecode",
            artifacts=members,
            key=_key("bytecode", members, interpreter),
        )
        for name, members in grouped(wheels, code_group_of).items()
    ]
    layers += sorted(packages, key=_height)
    toolkit = toolkit_of(lock) if DEVEL in parts_of(lock) else None
    if toolkit is not None:
        gzip = str([d.sha256 for d in lock.debian if d.name == "gzip"]) if base is None else base.digest
        members = tuple(sorted(toolkit.artifacts.values(), key=lambda item: item.name))
        layers += [LayerPlan(name="toolkit", kind="toolkit", artifacts=members, key=toolkit.key(gzip))]
    traces = tuple(whiteout(path) for path in TRACES)
    layers += [_of_files("programs", (*programs(parts_of(lock), image_facts(lock)), *traces))]
    return Plan(
        given=base.layers if base else (),
        layers=tuple(layers),
        toolkit=toolkit,
        run=run_config(lock, base),
        created=lock.created,
        annotations={
            "org.opencontainers.image.created": lock.created,
            "org.opencontainers.image.title": str(lock.ref),
        },
    )


def parts_of(lock: Lock) -> tuple[str, ...]:
    """The names of the recipe's optional parts."""
    return tuple(_section(lock, "parts"))


def _of_files(name: str, files: tuple[FileEntry, ...]) -> LayerPlan:
    return LayerPlan(name=name, kind="files", artifacts=(), key=_key("files", (), repr(files)), files=files)


def grouped(wheels: Iterable[Artifact], group: Callable[[str], str]) -> dict[str, tuple[Artifact, ...]]:
    """Wheels by layer, in name order.

    Grouping is by name only, never by size: changing one package changes one layer.
    """
    groups: dict[str, list[Artifact]] = {}
    for wheel in sorted(wheels, key=lambda item: item.name):
        groups.setdefault(group(wheel.name), []).append(wheel)
    return {name: tuple(groups[name]) for name in sorted(groups)}


def _height(layer: LayerPlan) -> tuple[int, bool, str]:
    """Where a layer lies: big packages low, then DeepSpeed, then the small ones that share layers.

    An engine unpacks again whatever lies above a layer that changed (config.md, "Layer ChainID"), and it is the small
    packages whose pins change often. A package's byte code lies with it.
    """
    shared, deepspeed = layer.name.startswith("python-"), layer.name.startswith("deepspeed")
    return (2 if shared else int(deepspeed), layer.kind == "bytecode", layer.name)


def skeleton(lock: Lock) -> tuple[FileEntry, ...]:
    """The frame that wheels are installed into: the virtual environment without packages, and the work folder."""
    versions = [deb.version for deb in lock.debian if deb.name == "python3.11-minimal"]
    version = versions[0].partition("-")[0] if versions else "3.11"
    return (*venv_entries(version), folder(WORKDIR.strip("/")))


def interpreter_key(lock: Lock) -> str:
    """What byte code depends on besides its wheel: the packages of the interpreter, and zlib, which compresses it.

    Another Debian package in the base changes neither, so it re-does no byte code.
    """
    makers = [d.sha256 for d in lock.debian if d.name == "zlib1g" or "python3.11" in d.name]
    return digests.of_bytes(digests.canonical_json(makers)).removeprefix("sha256:")


def run_config(lock: Lock, base: ImageBase | None = None) -> RunConfig:
    """How containers of the image start: documented in docs/reference/image.md."""
    devel = DEVEL in parts_of(lock)
    cuda = f"/{HOME}/bin:" if devel else ""
    env = {
        **({name: value for name, value in base.env.items() if name != "PATH"} if base else {}),
        "PATH": f"/{VENV}/bin:{cuda}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VIRTUAL_ENV": f"/{VENV}",
        "LANG": "C.UTF-8",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "PIP_ROOT_USER_ACTION": "ignore",
        **({"CUDA_HOME": f"/{HOME}", "NVCC_PREPEND_FLAGS": LINK_FLAGS} if devel else {}),
    }
    nccl = str(_section(lock, "cuda").get("nccl", ""))
    if nccl and _CUMEM_HOST_NEEDS_CAPABILITY[0] <= _minor(nccl) <= _CUMEM_HOST_NEEDS_CAPABILITY[1]:
        env["NCCL_CUMEM_HOST_ENABLE"] = "0"
    return RunConfig(
        env=env,
        entrypoint=("/usr/bin/tini", "-s", "-g", "--") if base is None or base.has_tini else (),
        cmd=("bash",),
        working_dir=WORKDIR,
        user="root",
        labels=labels(lock, base),
        exposed_ports=tuple(f"{port}/tcp" for port in sorted(ports(parts_of(lock)))),
    )


def labels(lock: Lock, base: ImageBase | None = None) -> dict[str, str]:
    """OCI labels (annotations.md's keys) and envbuild's own, from recipe and lock only.

    Builder version and revision belong to the provenance: here they would change the digest with every commit.
    """
    cuda, torch = _section(lock, "cuda"), _section(lock, "torch")
    values = {
        "org.opencontainers.image.title": str(lock.ref),
        "org.opencontainers.image.description": str(lock.recipe.get("description", "")),
        "org.opencontainers.image.version": lock.ref.tag,
        "org.opencontainers.image.created": lock.created,
        "io.envbuild.ref": str(lock.ref),
        "io.envbuild.lock.format": str(lock.format),
        "io.envbuild.inputs": inputs_digest(lock),
        "io.envbuild.torch": str(torch.get("version", "")),
        "io.envbuild.cuda": str(cuda.get("version", "")),
        "io.envbuild.cudnn": str(cuda.get("cudnn", "")),
        "io.envbuild.nccl": str(cuda.get("nccl", "")),
    }
    if base is not None:
        values["org.opencontainers.image.base.name"] = base.reference
        values["org.opencontainers.image.base.digest"] = base.digest
    if parts_of(lock):
        values["io.envbuild.parts"] = " ".join(parts_of(lock))
    deepspeed = _section(lock, "deepspeed")
    if deepspeed:
        values["io.envbuild.deepspeed"] = str(deepspeed["version"])
        values["io.envbuild.architectures"] = ";".join(cast("list[str]", deepspeed["architectures"]))
    return values


def inputs_digest(lock: Lock) -> str:
    """A digest over the sha256 of every input, in name order: which lock an image was made of."""
    native = () if lock.native is None else (lock.native.source, *lock.native.toolchain, *lock.native.build)
    return digests.of_bytes(
        digests.canonical_json(sorted((a.name, a.sha256) for a in (*lock.debian, *lock.python, *native)))
    )


def _section(lock: Lock, name: str) -> Mapping[str, object]:
    return cast("Mapping[str, object]", lock.recipe.get(name) or {})


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _key(kind: str, artifacts: tuple[Artifact, ...], *more: str) -> str:
    content = [FORMAT, kind, [artifact.sha256 for artifact in artifacts], *more]
    return digests.of_bytes(digests.canonical_json(content)).removeprefix("sha256:")
