"""What pip fetches when conda gives it environment.yml's pip part: DeepSpeed, and nothing else.

conda writes the lines of the pip part into ``condaenv.<random>.requirements.txt`` beside environment.yml and runs
``python -m pip install -U -r FILE --exists-action=b`` there, with its own environment variables (conda's
``conda/env/installers/pip.py``). The index here is one on 127.0.0.1 that writes down what it is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envbuild.lock import Artifact, CondaLock, Indexes, read_conda_lock
from envbuild.lock.conda.specs import conda_name
from envbuild.lock.python.source import deepspeed_source
from envbuild.progress import SilentProgress
from envbuild.recipe import Recipe, Ref, load_recipe
from envbuild.render.conda import conda_files
from envbuild.store import Http, Store

ROOT = Path(__file__).parents[2]
VARIABLES = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}

NEEDS = (
    "einops", "hjson", "msgpack", "ninja", "numpy", "packaging>=20.0", "psutil", "py-cpuinfo", "pydantic>=2.0.0",
    "torch>=2.0.0", "tqdm",
)  # fmt: skip
"""Requires-Dist of DeepSpeed 0.19.8's source, without extras; the test with the real source reads it there."""

BACKEND = """
import zipfile

import setuptools  # what a build without isolation finds in the environment


def build_wheel(folder, settings=None, metadata=None):
    name = "deepspeed-0.19.8-py3-none-any.whl"
    info = "deepspeed-0.19.8.dist-info"
    needs = "".join(f"Requires-Dist: {need}\\n" for need in NEEDS)
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("deepspeed/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: deepspeed\\nVersion: 0.19.8\\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


@dataclass(frozen=True)
class Index:
    """An index; ``asked`` are the paths that it was asked for."""

    url: str
    asked: list[str]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(Ref(name="ds-train", tag="v2.7"), [ROOT / "recipes"])


@pytest.fixture(scope="module")
def lock(recipe: Recipe) -> CondaLock:
    return read_conda_lock(recipe.conda_lock_path)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with pip and setuptools, and nothing of what DeepSpeed needs."""
    folder = tmp_path_factory.mktemp("prefix") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def source(needs: tuple[str, ...] = NEEDS) -> bytes:
    """A small source distribution that calls itself DeepSpeed, needs what it needs, and is built by setuptools."""
    requires = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": requires, "backend.py": f"NEEDS = {needs!r}\n{BACKEND}"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"deepspeed-0.19.8/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)


def empty_wheel(name: str) -> bytes:
    """Version 99.0 of a package, with a module of its name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(
            f"{name}-99.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n"
        )
        wheel.writestr(
            f"{name}-99.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}-99.0.dist-info/RECORD", "")
    return out.getvalue()


def serve(file: str, data: bytes) -> Iterator[Index]:
    """An index that has ``file`` as DeepSpeed, and any other name as an empty wheel."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            kind, _, name = self.path.strip("/").partition("/")
            offered = file if name == "deepspeed" else f"{name.replace('-', '_')}-99.0-py3-none-any.whl"
            page = kind == "simple"
            body = f'<a href="/files/{offered}">{offered}</a>'.encode() if page else data
            if not page and name != file:
                body = empty_wheel(name.partition("-")[0])
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Index(url=f"http://127.0.0.1:{server.server_port}/simple/", asked=asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def index() -> Iterator[Index]:
    yield from serve("deepspeed-0.19.8.tar.gz", source())


def with_source(lock: CondaLock, data: bytes) -> CondaLock:
    (locked,) = lock.pip
    return replace(lock, pip=(replace(locked, size=len(data), sha256=hashlib.sha256(data).hexdigest()),))


def as_conda_does(
    prefix: Path, folder: Path, files: Mapping[str, str], index: Index, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Lay out the two files and run pip as conda does."""
    folder.mkdir(exist_ok=True)
    for name in ("environment.yml", "environment.deepspeed.txt"):
        (folder / name).write_text(files[name])
    (lines,) = [
        entry["pip"]
        for entry in yaml.safe_load(files["environment.yml"])["dependencies"]
        if isinstance(entry, dict)
    ]
    requirements = folder / "condaenv.x1y2z3.requirements.txt"
    requirements.write_text("\n".join(lines))
    return subprocess.run(
        [prefix / "bin/python", "-m", "pip", "install", "-U", "-r", requirements, "--exists-action=b"],
        cwd=folder,
        env={
            "PATH": os.defpath, "HOME": str(folder), "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index.url,
            "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def installed(prefix: Path) -> set[str]:
    done = subprocess.run(
        [prefix / "bin/python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.partition("==")[0] for line in done.stdout.split()}


def remove_deepspeed(prefix: Path) -> None:
    subprocess.run([prefix / "bin/python", "-m", "pip", "uninstall", "-qy", "deepspeed"], check=True)


@pytest.fixture
def files(recipe: Recipe, lock: CondaLock) -> dict[str, str]:
    """The rendered files, for the small source."""
    return conda_files(recipe, with_source(lock, source()))


DEEPSPEED_ONLY = ["/simple/deepspeed/", "/files/deepspeed-0.19.8.tar.gz"]


def test_with_the_variables_pip_fetches_deepspeed_and_nothing_else(
    prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    before = installed(prefix)
    done = as_conda_does(prefix, tmp_path, files, index, VARIABLES)
    assert done.returncode == 0, done.stderr
    assert index.asked == DEEPSPEED_ONLY
    assert installed(prefix) - before == {"deepspeed"}
    remove_deepspeed(prefix)


@pytest.mark.parametrize("isolation", [{}, {"PIP_NO_BUILD_ISOLATION": "1"}], ids=["unset", "1"])
def test_with_build_isolation_pip_fetches_setuptools_unchecked(
    isolation: dict[str, str], prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    """``1`` does not switch isolation off: pip takes the variable as the value of ``build_isolation``."""
    done = as_conda_does(prefix, tmp_path, files, index, {"PIP_NO_DEPS": "1", **isolation})
    assert done.returncode == 0, done.stderr
    assert index.asked[:3] == [*DEEPSPEED_ONLY, "/simple/setuptools/"]
    assert "/files/setuptools-99.0-py3-none-any.whl" in index.asked
    remove_deepspeed(prefix)


def test_with_dependencies_pip_wants_more_and_fails(
    prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    done = as_conda_does(prefix, tmp_path, files, index, {"PIP_NO_BUILD_ISOLATION": "0"})
    assert done.returncode != 0
    assert index.asked[:3] == [*DEEPSPEED_ONLY, "/simple/einops/"]
    assert "In --require-hashes mode, all requirements must have their versions pinned" in done.stderr
    assert "deepspeed" not in installed(prefix)


def test_another_source_under_the_same_name_is_refused(
    prefix: Path, files: dict[str, str], tmp_path: Path
) -> None:
    for index in serve("deepspeed-0.19.8.tar.gz", source(needs=("evil",))):
        done = as_conda_does(prefix, tmp_path, files, index, VARIABLES)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "deepspeed" not in installed(prefix)


def test_a_requirement_without_hash_beside_it_is_refused(
    prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    """``--require-hashes`` is in environment.yml: pip would else take a file that someone emptied of its hashes."""
    bare = re.sub(r" \\\n.*--hash=\S+", "", files["environment.deepspeed.txt"])
    assert "deepspeed==0.19.8\n" in bare
    done = as_conda_does(prefix, tmp_path, {**files, "environment.deepspeed.txt": bare}, index, VARIABLES)
    assert done.returncode != 0
    assert "--require-hashes mode" in done.stderr
    assert "deepspeed" not in installed(prefix)


def unmet(needs: tuple[str, ...], lock: CondaLock) -> list[str]:
    """The requirements that no conda package of the lock meets."""
    versions = {package.name: package.version for package in lock.packages}
    wanted = [Requirement(need) for need in needs]
    return [
        str(need)
        for need in wanted
        if conda_name(need.name) not in versions
        or not need.specifier.contains(versions[conda_name(need.name)], prereleases=True)
    ]


@pytest.mark.parametrize("tag", ["ds-train:v2.7", "pytorch-cuda:v2.7"])
def test_conda_brings_all_that_deepspeed_needs(tag: str) -> None:
    name, _, version = tag.partition(":")
    recipe = load_recipe(Ref(name=name, tag=version), [ROOT / "recipes"])
    lock = read_conda_lock(recipe.conda_lock_path)
    assert recipe.deepspeed is not None
    assert recipe.deepspeed.version == "0.19.8", "read NEEDS from the new version's PKG-INFO"
    assert unmet(NEEDS, lock) == []
    assert unmet(("pip", "setuptools", "wheel"), lock) == []


def test_a_missing_or_old_package_would_be_found(lock: CondaLock) -> None:
    without = replace(lock, packages=tuple(p for p in lock.packages if p.name != "hjson-py"))
    assert unmet(NEEDS, without) == ["hjson"]
    old = replace(
        lock, packages=tuple(replace(p, version="1.10") if p.name == "pydantic" else p for p in lock.packages)
    )
    assert unmet(NEEDS, old) == ["pydantic>=2.0.0"]


def real_source(recipe: Recipe, artifact: Artifact, folder: Path) -> bytes:
    """DeepSpeed's source from this machine's index, which must be the locked one."""
    indexes = Indexes.from_machine(os.environ)
    http = Http(environ=indexes.environ)
    with Store.open(folder) as store:
        found = deepspeed_source(
            recipe, indexes.python, http=http, store=store, progress=SilentProgress(), before=None
        )
        assert (found.file, found.size, found.sha256) == (artifact.file, artifact.size, artifact.sha256)
        return store.artifact(found.sha256).read_bytes()


@pytest.mark.network
def test_the_real_deepspeed_built_by_the_locked_pip(
    prefix: Path, recipe: Recipe, lock: CondaLock, tmp_path: Path
) -> None:
    """The locked source, built by the locked pip, setuptools and wheel."""
    (artifact,) = lock.pip
    data = real_source(recipe, artifact, tmp_path / "store")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("deepspeed-0.19.8/PKG-INFO")
        assert member is not None
        declared = re.findall(r"^Requires-Dist: (.+)$", member.read().decode(), re.M)
    assert {text for text in declared if "extra ==" not in text} == set(NEEDS)
    tools = [f"{name}=={lock.package(name).version}" for name in ("pip", "setuptools", "wheel")]
    subprocess.run([prefix / "bin/python", "-m", "pip", "install", "-q", *tools], check=True)
    for index in serve(artifact.file, data):
        done = as_conda_does(prefix, tmp_path, conda_files(recipe, lock), index, VARIABLES)
        assert done.returncode == 0, done.stderr
        assert index.asked == DEEPSPEED_ONLY
    found = next(
        (prefix / "lib").glob("python3*/site-packages/deepspeed-0.19.8.dist-info/METADATA")
    ).read_text()
    needs = tuple(re.findall(r"^Requires-Dist: ([^;\n]+)$", found, re.M))
    assert {canonicalize_name(Requirement(need).name) for need in needs} >= {
        canonicalize_name(Requirement(need).name) for need in NEEDS
    }
    assert unmet(needs, lock) == []
