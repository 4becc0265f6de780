"""From a recipe to locked Python files: the image's wheels, DeepSpeed's source, what compiles its operator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from envbuild.lock.indexes import Indexes
from envbuild.lock.model import Artifact
from envbuild.lock.python import explain, files, pins, simple, standin, tags, uv
from envbuild.lock.python.source import deepspeed_source
from envbuild.progress import Progress
from envbuild.recipe.model import Recipe
from envbuild.store import Http, Store

BUILD = ("packaging", "setuptools", "typing-extensions")
"""What DeepSpeed's build imports besides torch: locked apart from the image's, so that the operator is not compiled
again when one of them moves there."""

NVCC_OF_CUDA_12 = "12.4.131"
"""The newest nvcc of CUDA 12 that Debian packages; the wheel of the same version has the headers it wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPart:
    """What was found. ``source``, ``toolchain`` and ``build`` are there with DeepSpeed only."""

    image: tuple[Artifact, ...]
    source: Artifact | None
    toolchain: tuple[Artifact, ...]
    build: tuple[Artifact, ...]


_Chosen = tuple[uv.Package, uv.RemoteFile]


@dataclass(slots=True, kw_only=True)
class PythonResolver:
    """What resolving needs. ``keep`` are versions to stay at (``keep_build``: of the operator's build), ``upgrade``
    names that may move.

    ``before`` is the RFC 3339 cut-off for uploads; it is dropped, with a note, on an index that tells no times.
    """

    recipe: Recipe
    indexes: Indexes
    http: Http
    store: Store
    progress: Progress
    before: str | None
    keep: Mapping[str, str]
    keep_build: Mapping[str, str]
    upgrade: Sequence[str]

    def run(self) -> PythonPart:
        """Resolve everything.

        Raises:
            EnvbuildError: exit 3, the pins cannot be met or contradict torch's; exit 4, the index.
        """
        urls = self.indexes.python
        source = self._source(urls) if self.recipe.deepspeed else None
        with self.progress.task("resolve Python packages", unit="packages") as task:
            image = self._image(source, urls)
            task.advance(len(image))
            versions = {package.name: package.version for package, _ in image}
            self._check_pins(image, versions, urls)
            toolchain = self._toolchain() if source else []
            build = self._build(versions) if source else []
        sizes = files.sizes(
            [file for _, file in (*image, *toolchain, *build)], urls, self.http, self.progress
        )
        return PythonPart(
            image=_artifacts(image, sizes),
            source=source,
            toolchain=_artifacts(toolchain, sizes),
            build=_artifacts(build, sizes),
        )

    def alone(self, lines: Sequence[str], *, glibc: int) -> tuple[Artifact, ...]:
        """Wheels for these requirements, without what they need themselves, for a C library 2.``glibc``.

        Raises:
            EnvbuildError: exit 3, a requirement cannot be met; exit 4, the index.
        """
        chosen = self._solve(replace(self._question(lines), dependencies=False), (), glibc=glibc)
        sizes = files.sizes([file for _, file in chosen], self.indexes.python, self.http, self.progress)
        return _artifacts(chosen, sizes)

    def _source(self, urls: Sequence[str]) -> Artifact:
        """DeepSpeed's sdist, fetched: its requirements are read from it."""
        return deepspeed_source(
            self.recipe, urls, http=self.http, store=self.store, progress=self.progress, before=self.before
        )

    def _image(self, source: Artifact | None, urls: Sequence[str]) -> list[_Chosen]:
        recipe = self.recipe
        lines = [f"torch=={recipe.torch.version}", *recipe.python_packages]
        if recipe.torch.torchvision:
            lines.append(f"torchvision=={recipe.torch.torchvision}")
        with tempfile.TemporaryDirectory(prefix="envbuild-standin-") as name:
            question = self._question(lines)
            if source:
                needs = standin.requirements_of(
                    self.store.artifact(source.sha256), name=source.name, version=source.version
                )
                standin.write_standin(
                    Path(name), name=source.name, version=source.version,
                    requirements=[*needs, *standin.BUILT_REQUIREMENTS],
                )  # fmt: skip
                lines.append(f"deepspeed=={source.version}")
                question = replace(
                    self._question(lines), find_links=Path(name), omit=["deepspeed"], upgrade=self.upgrade
                )
            return self._solve(question, urls)

    def _toolchain(self) -> list[_Chosen]:
        """The compiler's wheels: for CUDA 13 all of it, for CUDA 12 what Debian's nvcc lacks."""
        cuda = self.recipe.cuda
        if cuda.major >= 13:
            names = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl")
            lines = [f"{name}=={cuda.version}.*" for name in names]
        else:
            lines = [f"nvidia-cuda-nvcc-cu12=={NVCC_OF_CUDA_12}", f"nvidia-cuda-cccl-cu12=={cuda.version}.*"]
        return self._solve(replace(self._question(lines), dependencies=False, upgrade=self.upgrade), ())

    def _build(self, versions: Mapping[str, str]) -> list[_Chosen]:
        """The build's packages: those of the lock before, or the image's versions, or the newest."""
        question = self._question(BUILD)
        prefer = {**versions, **self.keep_build}
        moving = [name for name in self.upgrade if name not in versions]
        return self._solve(replace(question, dependencies=False, prefer=prefer, upgrade=moving), ())

    def _question(self, lines: Sequence[str]) -> uv.Question:
        return uv.Question(
            requirements="".join(f"{line}\n" for line in lines), python=self.recipe.python.version,
            before=self.before, prefer=self.keep, upgrade=self.upgrade,
        )  # fmt: skip

    def _solve(
        self, question: uv.Question, urls: Sequence[str], *, glibc: int = tags.IMAGE_GLIBC
    ) -> list[_Chosen]:
        """Ask uv, and choose a wheel for each package."""
        try:
            packages = uv.solve(replace(question, before=self.before), self.indexes.environ)
        except uv.NotDated:
            self.progress.note(
                "The index tells no upload times: the lock holds what it offers now, whatever the date."
            )
            self.before = None
            return self._solve(question, urls, glibc=glibc)
        except uv.Unsolvable as error:
            raise explain.unsolvable(
                self.recipe, str(error), urls or self.indexes.python, self.http, before=self.before
            ) from None
        chosen = []
        for package in sorted(packages, key=lambda item: item.name):
            wheel = tags.best_wheel(package.wheels, self.recipe.python.version, glibc)
            if wheel is None:
                platform = f"x86_64-manylinux_2_{glibc}"
                raise explain.no_wheel(self.recipe, package.name, package.version, platform)
            if wheel.sha256 is None:
                raise explain.no_hash(package)
            chosen.append((package, wheel))
        return chosen

    def _check_pins(self, image: Sequence[_Chosen], versions: Mapping[str, str], urls: Sequence[str]) -> None:
        wheel = next(file for package, file in image if package.name == "torch")
        offered = [item for item in simple.project("torch", urls, self.http) if item.name == wheel.name]
        entry = next((item for item in offered if item.sha256 in (None, wheel.sha256)), None)
        metadata = files.wheel_metadata(
            wheel.url, wheel.name, sha256=(entry.metadata or None) if entry else None,
            beside=entry is not None and entry.metadata is not None, indexes=urls, http=self.http,
        )  # fmt: skip
        pins.check_pins(self.recipe, pins.cuda_requirements(metadata, self.recipe.python.version), versions)


def _artifacts(chosen: Sequence[_Chosen], sizes: Mapping[str, int]) -> tuple[Artifact, ...]:
    found = []
    for package, file in chosen:
        assert file.sha256 is not None
        found.append(
            Artifact(
                kind="wheel", name=canonicalize_name(package.name), version=package.version, file=file.name,
                size=sizes[file.url], sha256=file.sha256, index="python", uploaded=file.uploaded,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda item: item.name))
