"""What pip fetches when conda gives it environment.yml's pip part: DeepSpeed, ninja, and setuptools to build with.

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
import shutil
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

from envbuild.lock import CondaLock, Indexes, read_conda_lock, sources_for
from envbuild.lock.conda.model import dependency_names
from envbuild.lock.conda.specs import FROM_PIP, conda_name
from envbuild.progress import SilentProgress
from envbuild.recipe import Recipe, Ref, load_recipe
from envbuild.render.conda import conda_files
from envbuild.store import Http, Store, Wanted, fetch

ROOT = Path(__file__).parents[2]
ALL_HASHED = {"PIP_NO_BUILD_ISOLATION": "0"}
"""With it the build takes the environment's own setuptools."""

NEEDS = (
    "einops", "hjson", "msgpack", "ninja", "numpy", "packaging>=20.0", "psutil", "py-cpuinfo", "pydantic>=2.0.0",
    "torch>=2.0.0", "tqdm",
)  # fmt: skip
"""Requires-Dist of DeepSpeed 0.19.8's source, without extras; the test with the real source reads it there."""

NEEDED = {
    "jinja2": ("MarkupSafe>=2.0",),
    "pydantic": (
        "annotated-types>=0.6.0", "pydantic-core==2.41.5", "typing-extensions>=4.14.1", "typing-inspection>=0.4.2",
    ),
    "pydantic-core": ("typing-extensions>=4.14.1",),
    "sympy": ("mpmath<1.5,>=1.1.0",),
    "torch": ("filelock", "fsspec", "jinja2", "networkx", "sympy>=1.13.3", "typing-extensions>=4.10.0"),
    "typing-inspection": ("typing-extensions>=4.12.0",),
}  # fmt: skip
"""Requires-Dist of what DeepSpeed needs, in conda-forge's builds: torch asks for none of NVIDIA's wheels there."""

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


@pytest.fixture
def prefix(environment: Path, tmp_path: Path) -> Path:
    """A copy of the environment that a test may change."""
    return shutil.copytree(environment, tmp_path / "env", symlinks=True)


@pytest.fixture(scope="module")
def environment(lock: CondaLock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python, pip and setuptools, and for each Python package that conda installed the metadata that pip sees."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    for name, version in distributions(lock).items():
        if name in ("pip", "setuptools"):
            continue
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {need}\n" for need in NEEDED.get(name, ()))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        (info / "INSTALLER").write_text("conda\n")
        (info / "RECORD").write_text("")
    return folder


def distributions(lock: CondaLock) -> dict[str, str]:
    """The Python packages among conda's, by the name that pip knows them by: those that are built for a Python."""
    names = {"hjson-py": "hjson", "msgpack-python": "msgpack", "pytorch": "torch"}
    return {
        names.get(item.name, str(canonicalize_name(item.name))): item.version
        for item in lock.packages
        if item.noarch == "python" or ("python" in dependency_names(item) and "py311" in item.build)
    }


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


def small_wheel(name: str, version: str = "99.0", program: str = "") -> bytes:
    """A wheel with a module of its name, and perhaps a program."""
    out = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(out, "w") as wheel:
        for path, text in {
            f"{name}/__init__.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
            **({f"{name}-{version}.data/scripts/{name}": program} if program else {}),
        }.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if path.endswith(f"scripts/{name}") else 0o100644) << 16
            wheel.writestr(entry, text)
    return out.getvalue()


NINJA = small_wheel("ninja", "1.13.2", "#!/bin/sh\necho 1.13.2\n")


def serve(offers: Mapping[str, tuple[str, bytes]]) -> Iterator[Index]:
    """An index that has these files, name of the project → file; any other name as an empty wheel."""
    asked: list[str] = []
    files = dict(offers.values())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            kind, _, name = self.path.strip("/").partition("/")
            page = kind == "simple"
            offered = offers[name][0] if name in offers else f"{name.replace('-', '_')}-99.0-py3-none-any.whl"
            body = f'<a href="/files/{offered}">{offered}</a>'.encode()
            if not page:
                body = files.get(name) or small_wheel(name.partition("-")[0])
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


def offers(lock: CondaLock) -> dict[str, tuple[str, bytes]]:
    """The small files in the names of the locked ones."""
    return {item.name: (item.file, NINJA if item.name == "ninja" else source()) for item in lock.pip}


@pytest.fixture
def index(lock: CondaLock) -> Iterator[Index]:
    yield from serve(offers(lock))


def with_small_files(lock: CondaLock) -> CondaLock:
    made = offers(lock)
    pip = [
        replace(item, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for item in lock.pip
        for _, data in [made[item.name]]
    ]
    return replace(lock, pip=tuple(pip))


def as_conda_does(
    prefix: Path, folder: Path, files: Mapping[str, str], index: Index, **variables: str
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


@pytest.fixture
def files(recipe: Recipe, lock: CondaLock) -> dict[str, str]:
    """The rendered files, for the small ones."""
    return conda_files(recipe, with_small_files(lock))


def asked_for(lock: CondaLock, *more: str) -> set[str]:
    return (
        {f"/simple/{item.name}/" for item in lock.pip}
        | {f"/files/{item.file}" for item in lock.pip}
        | {*more}
    )


SETUPTOOLS = ("/simple/setuptools/", "/files/setuptools-99.0-py3-none-any.whl")


def test_the_plain_command_fetches_deepspeed_and_ninja_by_hash_and_setuptools_to_build_with(
    prefix: Path, files: dict[str, str], lock: CondaLock, index: Index, tmp_path: Path
) -> None:
    before = installed(prefix)
    done = as_conda_does(prefix, tmp_path, files, index)
    assert done.returncode == 0, done.stderr
    assert set(index.asked) == asked_for(lock, *SETUPTOOLS)
    assert installed(prefix) - before == {"deepspeed", "ninja"}
    assert subprocess.run([prefix / "bin/ninja"], capture_output=True, check=True).stdout == b"1.13.2\n"
    checked = subprocess.run(
        [prefix / "bin/python", "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert not [line for line in checked.stdout.splitlines() if "deepspeed" in line]


def test_without_build_isolation_pip_fetches_only_what_has_a_hash(
    prefix: Path, files: dict[str, str], lock: CondaLock, index: Index, tmp_path: Path
) -> None:
    done = as_conda_does(prefix, tmp_path, files, index, **ALL_HASHED)
    assert done.returncode == 0, done.stderr
    assert set(index.asked) == asked_for(lock)


def test_the_variable_is_read_the_other_way_round(
    prefix: Path, files: dict[str, str], lock: CondaLock, index: Index, tmp_path: Path
) -> None:
    """``1`` does not switch isolation off: pip takes the variable as the value of ``build_isolation``."""
    done = as_conda_does(prefix, tmp_path, files, index, PIP_NO_BUILD_ISOLATION="1")
    assert done.returncode == 0, done.stderr
    assert set(index.asked) == asked_for(lock, *SETUPTOOLS)


@pytest.mark.parametrize("name", ["einops", "torch", "mpmath"])
def test_a_need_that_conda_does_not_bring_stops_it(
    name: str, prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    (info,) = prefix.glob(f"lib/python3.*/site-packages/{name}-*.dist-info")
    shutil.rmtree(info)
    done = as_conda_does(prefix, tmp_path, files, index)
    assert done.returncode != 0
    assert f"/simple/{name}/" in index.asked
    assert "In --require-hashes mode, all requirements must have their versions pinned" in done.stderr
    assert "deepspeed" not in installed(prefix)


def test_a_file_without_ninja_stops_it(
    prefix: Path, recipe: Recipe, lock: CondaLock, index: Index, tmp_path: Path
) -> None:
    """conda-forge's ninja is the program alone: pip does not see it."""
    small = with_small_files(lock)
    without = conda_files(
        recipe, replace(small, pip=tuple(item for item in small.pip if item.name != "ninja"))
    )
    done = as_conda_does(prefix, tmp_path, without, index)
    assert done.returncode != 0
    assert re.search(r"These do not:\s+ninja", done.stderr)


@pytest.mark.parametrize("name", ["deepspeed", "ninja"])
def test_another_file_under_the_same_name_is_refused(
    name: str, prefix: Path, files: dict[str, str], lock: CondaLock, tmp_path: Path
) -> None:
    served = offers(lock)
    served[name] = (
        served[name][0],
        source(needs=("evil",)) if name == "deepspeed" else small_wheel(name, "1.13.2"),
    )
    for index in serve(served):
        done = as_conda_does(prefix, tmp_path, files, index)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert {"deepspeed", "ninja"} & installed(prefix) == set()


@pytest.mark.parametrize("name", ["deepspeed", "ninja"])
def test_a_requirement_without_hash_beside_it_is_refused(
    name: str, prefix: Path, files: dict[str, str], index: Index, tmp_path: Path
) -> None:
    """``--require-hashes`` is in environment.yml: pip would else take a file that someone emptied of its hashes."""
    bare, count = re.subn(rf"({name}==\S+) \\\n.*--hash=\S+", r"\1", files["environment.deepspeed.txt"])
    assert count == 1
    done = as_conda_does(prefix, tmp_path, {**files, "environment.deepspeed.txt": bare}, index)
    assert done.returncode != 0
    assert "--require-hashes mode" in done.stderr
    assert {"deepspeed", "ninja"} & installed(prefix) == set()


def unmet(needs: tuple[str, ...], lock: CondaLock) -> list[str]:
    """The requirements that nothing of the lock meets in a way that pip sees: conda's ninja would not."""
    versions = {package.name: package.version for package in lock.packages if package.name not in FROM_PIP}
    versions |= {item.name: item.version for item in lock.pip}
    wanted = [Requirement(need) for need in needs]
    return [
        str(need)
        for need in wanted
        if conda_name(need.name) not in versions
        or not need.specifier.contains(versions[conda_name(need.name)], prereleases=True)
    ]


@pytest.mark.parametrize("tag", ["ds-train:v2.7", "pytorch-cuda:v2.7"])
def test_conda_and_pip_bring_all_that_deepspeed_needs(tag: str) -> None:
    name, _, version = tag.partition(":")
    recipe = load_recipe(Ref(name=name, tag=version), [ROOT / "recipes"])
    lock = read_conda_lock(recipe.conda_lock_path)
    assert recipe.deepspeed is not None
    assert recipe.deepspeed.version == "0.19.8", "read NEEDS from the new version's PKG-INFO"
    assert unmet(NEEDS, lock) == []
    assert unmet(("pip", "setuptools", "wheel"), lock) == []
    assert not {package.name for package in lock.packages} & {*FROM_PIP}, "two packages write bin/ninja"


def test_a_missing_or_old_package_would_be_found(lock: CondaLock) -> None:
    without = replace(lock, packages=tuple(p for p in lock.packages if p.name != "hjson-py"))
    assert unmet(NEEDS, without) == ["hjson"]
    old = replace(
        lock, packages=tuple(replace(p, version="1.10") if p.name == "pydantic" else p for p in lock.packages)
    )
    assert unmet(NEEDS, old) == ["pydantic>=2.0.0"]


def real_files(lock: CondaLock, folder: Path) -> dict[str, tuple[str, bytes]]:
    """What pip is given, from this machine's index: the locked files, or fetching fails."""
    indexes = Indexes.from_machine(os.environ)
    http, progress = Http(environ=indexes.environ), SilentProgress()
    sources = sources_for(lock, lock.pip, indexes=indexes, http=http, progress=progress)
    wanted = [
        Wanted(name=i.name, file=i.file, sha256=i.sha256, size=i.size, sources=sources[i.sha256])
        for i in lock.pip
    ]
    with Store.open(folder) as store:
        fetch(store, wanted, http=http, jobs=2, progress=progress)
        return {item.name: (item.file, store.artifact(item.sha256).read_bytes()) for item in lock.pip}


def declared_by(source: bytes) -> set[str]:
    """Requires-Dist of the real source, without extras."""
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        member = archive.extractfile("deepspeed-0.19.8/PKG-INFO")
        assert member is not None
        declared = re.findall(r"^Requires-Dist: (.+)$", member.read().decode(), re.M)
    return {text for text in declared if "extra ==" not in text}


@pytest.mark.network
@pytest.mark.parametrize("variables", [{}, ALL_HASHED], ids=["plain", "all hashed"])
def test_the_real_files_with_the_locked_pip(
    variables: dict[str, str], prefix: Path, recipe: Recipe, lock: CondaLock, tmp_path: Path
) -> None:
    """The locked source, built by the locked pip, setuptools and wheel."""
    files = real_files(lock, tmp_path / "store")
    assert declared_by(files["deepspeed"][1]) == set(NEEDS)
    tools = [f"{name}=={lock.package(name).version}" for name in ("pip", "setuptools", "wheel")]
    pip = [prefix / "bin/python", "-m", "pip"]
    subprocess.run([*pip, "install", "-q", *tools], check=True)
    subprocess.run([*pip, "download", "-q", "--no-deps", "-d", tmp_path / "tools", tools[1]], check=True)
    (setuptools,) = (tmp_path / "tools").iterdir()
    for index in serve({**files, "setuptools": (setuptools.name, setuptools.read_bytes())}):
        done = as_conda_does(prefix, tmp_path, conda_files(recipe, lock), index, **variables)
        assert done.returncode == 0, done.stderr
        more = () if variables else ("/simple/setuptools/", f"/files/{setuptools.name}")
        assert set(index.asked) == asked_for(lock, *more)
    (metadata,) = prefix.glob("lib/python3*/site-packages/deepspeed-0.19.8.dist-info/METADATA")
    needs = tuple(re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata.read_text(), re.M))
    assert {canonicalize_name(Requirement(need).name) for need in needs} >= {
        canonicalize_name(Requirement(need).name) for need in NEEDS
    }
    assert unmet(needs, lock) == []
