"""The recipe as a value: what a person pinned, checked, without hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuild.recipe.parts import Part

IMAGE = "image"
ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """``name:tag``, what every command takes."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def candidate(self) -> str:
        """The marker of an image without a verdict: ``name:tag-candidate``."""
        return f"{self.name}:{self.tag}-candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPins:
    """``[python]``: the interpreter's minor version and further packages (PEP 508 requirements)."""

    version: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchPins:
    """``[torch]``: exact versions; ``torchvision`` is optional."""

    version: str
    torchvision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaPins:
    """``[cuda]``: toolkit ``major.minor``, and cuDNN and NCCL as their wheels are versioned."""

    version: str
    cudnn: str
    nccl: str

    @property
    def major(self) -> int:
        """``12`` of ``12.6``."""
        return int(self.version.split(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeedPins:
    """``[deepspeed]``: version, operators to compile, and GPU architectures in TORCH_CUDA_ARCH_LIST's words."""

    version: str
    operators: tuple[str, ...]
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianPins:
    """``[debian]``: the release by code name, packages on top of the fixed set, whether security updates count."""

    release: str
    packages: tuple[str, ...]
    security_updates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaPins:
    """``[conda]``: what the environment, and the interpreter of a Dockerfile, take from conda channels.

    ``channels`` are names, in order of priority; ``packages`` MatchSpecs on top of what the other tables pin;
    ``glibc`` the oldest C library that the environment must run on. ``versions`` and ``without`` are declared
    differences from the image: pins (by the recipe's names, canonical) that the environment has in another version,
    and Python packages that it does not have.
    """

    channels: tuple[str, ...]
    packages: tuple[str, ...]
    glibc: str
    versions: Mapping[str, str]
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePins:
    """``[gate]``: how many GPUs a passing verdict must have seen."""

    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """``recipes/<name>/<tag>/recipe.toml``, parsed and checked.

    ``path`` is the file it came from (for messages only; it takes no part in equality of content: use
    ``to_dict``). ``places`` maps a dotted key to its ``file:line``, for messages. ``parent`` is the recipe that it
    ``extends``, whose content is merged in already. ``makes`` holds ``image``, ``environment`` or both, in this
    order. ``parts`` are optional parts with what they bring.
    """

    ref: Ref
    path: Path
    places: Mapping[str, str]
    parent: Ref | None
    makes: tuple[str, ...]
    description: str
    parts: tuple[Part, ...]
    python: PythonPins
    torch: TorchPins
    cuda: CudaPins
    deepspeed: DeepSpeedPins | None
    debian: DebianPins
    conda: CondaPins
    gate: GatePins

    @property
    def makes_image(self) -> bool:
        """Whether an image is made of it; then it has a ``lock.json``."""
        return IMAGE in self.makes

    @property
    def makes_environment(self) -> bool:
        """Whether a conda environment is made of it; then its conda lock holds the whole environment."""
        return ENVIRONMENT in self.makes

    @property
    def lock_path(self) -> Path:
        """The image's lock beside the recipe; there is none where the recipe makes no image."""
        return self.path.with_name("lock.json")

    @property
    def conda_lock_path(self) -> Path:
        """The conda lock beside the recipe; every recipe has one."""
        return self.path.with_name("conda.lock.json")

    def where(self, key: str) -> str:
        """``file:line`` of a dotted key, for an error's ``where``."""
        return self.places.get(key, str(self.path))

    @property
    def debian_packages(self) -> tuple[str, ...]:
        """What is asked of Debian on top of the fixed set: the recipe's own packages, then those of its parts."""
        return tuple(dict.fromkeys([*self.debian.packages, *(n for part in self.parts for n in part.debian)]))

    @property
    def python_packages(self) -> tuple[str, ...]:
        """Further Python requirements: the recipe's own, then those of its parts."""
        return tuple(dict.fromkeys([*self.python.packages, *(n for part in self.parts for n in part.python)]))

    def conda_dict(self) -> dict[str, object]:
        """What the recipe asks of conda channels, in canonical form: what the conda lock remembers.

        A recipe that makes no environment asks for the interpreter alone, so that its other pins move without it.
        """
        channels = {"channels": list(self.conda.channels), "glibc": self.conda.glibc}
        if not self.makes_environment:
            return {"scope": "interpreter", "python": {"version": self.python.version}, "conda": channels}
        return {
            "scope": ENVIRONMENT,
            "python": {"version": self.python.version, "packages": list(self.python.packages)},
            "torch": {"version": self.torch.version, "torchvision": self.torch.torchvision},
            "cuda": {"version": self.cuda.version, "cudnn": self.cuda.cudnn, "nccl": self.cuda.nccl},
            "deepspeed": self.deepspeed and {"version": self.deepspeed.version},
            "parts": {part.name: list(part.conda) for part in self.parts},
            "conda": {
                **channels,
                "packages": list(self.conda.packages),
                "versions": dict(self.conda.versions),
                "without": list(self.conda.without),
            },
        }

    def to_dict(self) -> dict[str, object]:
        """The image's content in canonical form: what its lock remembers and ``lock --check`` compares.

        What only an environment uses (``makes``, ``[conda]``) is not in it: see :meth:`conda_dict`.
        """
        value: dict[str, object] = {
            "description": self.description,
            "python": {"version": self.python.version, "packages": list(self.python.packages)},
            "torch": {"version": self.torch.version, "torchvision": self.torch.torchvision},
            "cuda": {"version": self.cuda.version, "cudnn": self.cuda.cudnn, "nccl": self.cuda.nccl},
            "debian": {
                "release": self.debian.release,
                "packages": list(self.debian.packages),
                "security-updates": self.debian.security_updates,
            },
            "gate": {"gpus": self.gate.gpus},
        }
        if self.parts:
            value["parts"] = {
                part.name: {"debian": list(part.debian), "python": list(part.python)} for part in self.parts
            }
        if self.deepspeed is not None:
            value["deepspeed"] = {
                "version": self.deepspeed.version,
                "operators": list(self.deepspeed.operators),
                "architectures": list(self.deepspeed.architectures),
            }
        return value
