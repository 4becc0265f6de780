"""The steps of a rendered Dockerfile, run: what they fetch, verify, refuse, leave behind.

Programs that are not at hand (micromamba, apt) are small ones that note how they were called; pip, Python, bash and
all that Debian has are real. The whole file is built by an engine in tests/image.
"""

from __future__ import annotations

import ensurepip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dockerfilesteps import health, run, step
from smallrecipe import bare, sha256, small_conda, small_lock, small_recipe

from envbuild.layers.format import MTIME
from envbuild.lock import Artifact, CondaLock, Lock
from envbuild.recipe import Recipe
from envbuild.render.dockerfile import docker_files

MICROMAMBA = """#!/bin/bash
set -euo pipefail
printf '%s\\n' "$*" >> "$MAMBA_LOG"
while (($#)); do
  case $1 in
    --file) list=$2 ;;
    --prefix) prefix=$2 ;;
    --root-prefix) root=$2 ;;
    --download-only) download=yes ;;
  esac
  shift
done
cat "$list" >> "$MAMBA_LOG"
if [[ -n ${download:-} ]]; then
  mkdir -p "$root/pkgs/extracted"
  for file in "$MAMBA_SERVES"/*; do cp "$file" "$root/pkgs/"; done
  exit 0
fi
mkdir -p "$prefix/conda-meta" "$prefix/bin"
grep '^/' "$list" | while read -r file; do
  echo "{\\"url\\": \\"file://$file\\"}" > "$prefix/conda-meta/$(basename "$file").json"
done
echo 2026-11-20 > "$prefix/conda-meta/history"
ln -s "$PYTHON" "$prefix/bin/python3.11"
"""


class Builder:
    """One rendered Dockerfile and a folder to run its steps in."""

    def __init__(self, recipe: Recipe, lock: Lock, conda: CondaLock, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.env = {
            "MAMBA_LOG": str(self.log),
            "MAMBA_SERVES": str(root / "served"),
            "PYTHON": os.path.realpath(sys.executable),
        }
        for folder in ("run", "opt", "tmp", "served"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.text = ""
        for name, text in docker_files(recipe, lock, conda).items():
            _, _, last = name.removesuffix(".txt").rpartition(".")
            if last == "Dockerfile":
                self.text = text
            else:
                (root / "run" / f"{last}.txt").write_text(text)

    def do(self, part: str, **env: str) -> subprocess.CompletedProcess[str]:
        return step(self.text, part).run(self.root, {**self.env, **env})

    @property
    def called(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


BRING, INSTALL = "--download-only", "@EXPLICIT"


def packages(conda: CondaLock) -> CondaLock:
    """The lock, with the hashes of what `serve` writes."""
    return replace(conda, packages=tuple(replace(p, sha256=sha256(p.file)) for p in conda.packages))


def serve(folder: Path, conda: CondaLock, *, by_subdir: bool = False) -> None:
    for package in conda.interpreter():
        path = folder / (package.subdir if by_subdir else ".") / package.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(package.file)


@pytest.fixture
def conda() -> CondaLock:
    return packages(small_conda(small_recipe().ref))


@pytest.fixture
def builder(conda: CondaLock, tmp_path: Path) -> Builder:
    recipe = small_recipe()
    made = Builder(recipe, small_lock(recipe), conda, tmp_path / "root")
    program = made.root / "opt/micromamba"
    program.write_text(MICROMAMBA)
    program.chmod(0o755)
    return made


class TestInterpreter:
    @pytest.mark.parametrize("by_subdir", [True, False])
    def test_is_installed_from_what_the_host_fetched(
        self, builder: Builder, conda: CondaLock, by_subdir: bool
    ) -> None:
        serve(builder.root / "run/artifacts/conda", conda, by_subdir=by_subdir)
        assert builder.do(BRING).returncode == 0
        assert builder.called == ""  # nothing was downloaded
        done = builder.do(INSTALL)
        assert done.returncode == 0, done.stderr
        assert [line.removeprefix(str(builder.root)) for line in builder.called.splitlines()[1:]] == [
            "@EXPLICIT",
            "/tmp/channel/linux-64/libz-1.3-h0_0.conda",
            "/tmp/channel/noarch/tzdata-2026a-h0_0.conda",
            "/tmp/channel/linux-64/python-3.11.9-h0_0.conda",
        ]
        called = builder.called.splitlines()[0]
        assert "--no-rc --no-env --yes" in called
        assert "--download-only" not in called

    def test_leaves_the_channels_addresses_no_date_and_no_cache(
        self, builder: Builder, conda: CondaLock
    ) -> None:
        serve(builder.root / "run/artifacts/conda", conda)
        builder.do(BRING)
        assert builder.do(INSTALL).returncode == 0
        meta = builder.root / "opt/conda/conda-meta"
        assert (meta / "history").read_text() == ""
        assert sorted(json.loads(path.read_text())["url"] for path in meta.glob("*.json")) == [
            "https://conda.invalid/small/linux-64/libz-1.3-h0_0.conda",
            "https://conda.invalid/small/linux-64/python-3.11.9-h0_0.conda",
            "https://conda.invalid/small/noarch/tzdata-2026a-h0_0.conda",
        ]
        assert list((builder.root / "tmp").iterdir()) == []
        assert (builder.root / "opt/venv/bin/python").exists()

    def test_is_downloaded_by_micromamba_where_nothing_was_fetched(
        self, builder: Builder, conda: CondaLock
    ) -> None:
        serve(builder.root / "served", conda)
        assert builder.do(BRING).returncode == 0
        assert "--download-only" in builder.called
        assert "--ssl-verify /etc/ssl/certs/ca-certificates.crt " in builder.called.replace(
            str(builder.root), ""
        )
        assert "https://conda.invalid/small/linux-64/libz-1.3-h0_0.conda#sha256:" in builder.called
        assert builder.do(INSTALL).returncode == 0
        assert list((builder.root / "tmp").iterdir()) == []

    def test_is_downloaded_with_the_authorities_that_come_as_a_secret(
        self, builder: Builder, conda: CondaLock
    ) -> None:
        serve(builder.root / "served", conda)
        (builder.root / "run/ca.crt").write_text("a certificate\n")
        assert builder.do(BRING).returncode == 0
        assert "--ssl-verify /run/ca.crt " in builder.called.replace(str(builder.root), "")

    @pytest.mark.parametrize("end", ["\n", "", "/\n"])
    def test_a_mirror_comes_as_a_secret_and_stays_nowhere(
        self, builder: Builder, conda: CondaLock, end: str
    ) -> None:
        serve(builder.root / "served", conda)
        address = "https://user:p&ss@mirror.invalid/conda"
        (builder.root / "run/channel").write_text(address + end)
        assert builder.do(BRING).returncode == 0
        assert f"\n{address}/linux-64/libz-1.3-h0_0.conda#sha256:" in builder.called
        assert "conda.invalid" not in builder.called
        (builder.root / "run/channel").unlink()
        builder.log.unlink()
        assert builder.do(INSTALL).returncode == 0
        left = [path for path in builder.root.rglob("*") if path.is_file() and b"p&ss" in path.read_bytes()]
        assert left == []

    @pytest.mark.parametrize("how", ["changed", "missing"])
    def test_a_package_that_is_not_the_locked_one_is_refused(
        self, builder: Builder, conda: CondaLock, how: str
    ) -> None:
        serve(builder.root / "run/artifacts/conda", conda)
        path = builder.root / "run/artifacts/conda/tzdata-2026a-h0_0.conda"
        path.unlink() if how == "missing" else path.write_text("other bytes")
        assert builder.do(BRING).returncode == 0
        done = builder.do(INSTALL)
        assert done.returncode != 0
        assert "tzdata-2026a-h0_0.conda: FAILED" in done.stdout
        assert builder.called == ""  # nothing was installed
        assert not (builder.root / "opt/conda").exists()


@pytest.fixture
def apt(tmp_path: Path) -> dict[str, str]:
    """A PATH with programs that note their calls, and a dpkg-query that knows the packages of $HAS."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "apt-get": 'printf "%s\\n" "$*" >> "$APT_LOG"',
        "dpkg-query": 'for name; do :; done; [[ " $HAS " == *" $name "* ]] || exit 1; echo -n installed',
        "dpkg": 'printf "dpkg %s\\n" "$*" >> "$APT_LOG"',
        "ldconfig": 'printf "ldconfig\\n" >> "$APT_LOG"',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "APT_LOG": str(tmp_path / "apt")}


class TestSystemPackages:
    """The step of the second stage; what it removes at its end is the container's own, so it ends before that."""

    ALL = "ca-certificates g++ gcc git less libc6-dev openssh-client openssh-server pdsh procps tini"

    def install(self, builder: Builder, apt: dict[str, str], has: str, snapshot: str = "") -> list[str]:
        script, removing, _ = step(builder.text, " tini; do").script.partition(" rm -rf /var/lib/apt")
        assert removing
        done = run(script, builder.root, {**apt, "HAS": has, "APT_SNAPSHOT": snapshot})
        assert done.returncode == 0, done.stderr
        log = Path(apt["APT_LOG"])
        return log.read_text().replace(str(builder.root), "").splitlines() if log.exists() else []

    def test_a_base_that_has_all_needs_no_network(self, builder: Builder, apt: dict[str, str]) -> None:
        assert self.install(builder, apt, self.ALL) == []

    def test_only_what_is_missing_is_installed(self, builder: Builder, apt: dict[str, str]) -> None:
        has = self.ALL.replace("pdsh ", "").replace("tini", "")
        assert self.install(builder, apt, has) == [
            "update",
            "install --yes --no-install-recommends pdsh tini",
        ]

    def test_versions_are_those_of_the_snapshot(self, builder: Builder, apt: dict[str, str]) -> None:
        """The first update is without: apt learns by it where a source has its snapshots."""
        snapshot = "--snapshot 20261120T000000Z"
        assert self.install(builder, apt, self.ALL.replace("tini", ""), "20261120T000000Z") == [
            "update",
            f"update -o APT::Update::Error-Mode=any {snapshot}",
            f"install --yes --no-install-recommends {snapshot} tini",
        ]

    def test_a_snapshot_that_cannot_be_had_ends_the_step(
        self, builder: Builder, apt: dict[str, str], tmp_path: Path
    ) -> None:
        program = tmp_path / "bin/apt-get"
        program.write_text(f"{program.read_text()}[[ $* != update*--snapshot* ]] || exit 100\n")
        script = step(builder.text, " tini; do").script.partition(" rm -rf /var/lib/apt")[0]
        done = run(script, builder.root, {**apt, "HAS": "", "APT_SNAPSHOT": "20261120T000000Z"})
        assert done.returncode == 100
        assert "install" not in Path(apt["APT_LOG"]).read_text()

    @pytest.mark.parametrize("snapshot", ["", "20261120T000000Z"])
    def test_other_sources_come_as_a_secret_and_are_taken_as_they_are(
        self, builder: Builder, apt: dict[str, str], snapshot: str
    ) -> None:
        (builder.root / "run/apt.list").write_text("deb https://mirror.invalid/ubuntu noble main\n")
        options = "-o Dir::Etc::SourceList=/run/apt.list -o Dir::Etc::SourceParts=/dev/null"
        assert self.install(builder, apt, self.ALL.replace("tini", ""), snapshot) == [
            f"update {options}",
            f"install --yes --no-install-recommends {options} tini",
        ]

    def test_authorities_come_as_a_secret(self, builder: Builder, apt: dict[str, str]) -> None:
        (builder.root / "run/ca.crt").write_text("a certificate\n")
        assert self.install(builder, apt, self.ALL.replace("tini", "")) == [
            "update -o Acquire::https::CAInfo=/run/ca.crt",
            "install --yes --no-install-recommends -o Acquire::https::CAInfo=/run/ca.crt tini",
        ]

    def test_packages_that_the_host_fetched_need_no_network(
        self, builder: Builder, apt: dict[str, str]
    ) -> None:
        debs = builder.root / "run/artifacts/debs"
        debs.mkdir(parents=True)
        (debs / "tini_1_amd64.deb").write_text("")
        assert self.install(builder, apt, "") == [
            "install --yes --no-install-recommends --no-download /run/artifacts/debs/tini_1_amd64.deb"
        ]


class TestLoader:
    def test_cuda_leaves_the_loaders_path_and_a_second_nccl_the_image(
        self, builder: Builder, apt: dict[str, str]
    ) -> None:
        folder = builder.root / "etc/ld.so.conf.d"
        folder.mkdir(parents=True)
        (folder / "000_cuda.conf").write_text("/usr/local/cuda/targets/x86_64-linux/lib\n")
        (folder / "988_cuda-12.conf").write_text("/usr/local/cuda-12/targets/x86_64-linux/lib\n")
        (folder / "nvidia.conf").write_text("/usr/local/nvidia/lib\n/usr/local/nvidia/lib64\n")
        script, removing, _ = step(builder.text, "libnccl2").script.partition(" rm -f /var/cache/ldconfig")
        assert removing  # what it removes at its end is the container's own
        done = run(script, builder.root, {**apt, "HAS": "libnccl2"})
        assert done.returncode == 0, done.stderr
        assert [path.name for path in folder.iterdir()] == ["nvidia.conf"]
        assert Path(apt["APT_LOG"]).read_text() == "dpkg --force-hold --purge libnccl2\nldconfig\n"

    def test_a_base_without_any_of_it_stays_as_it_is(self, builder: Builder, apt: dict[str, str]) -> None:
        script = step(builder.text, "libnccl2").script.partition(" rm -f /var/cache/ldconfig")[0]
        assert run(script, builder.root, {**apt, "HAS": ""}).returncode == 0
        assert Path(apt["APT_LOG"]).read_text() == "ldconfig\n"


def make_wheel(folder: Path, name: str, body: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def make_source(folder: Path) -> Path:
    """A source of "deepspeed" whose build imports a package that is not there by itself, as the real one does."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.19.8\n",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "made"\nbackend-path = ["."]\n',
        "made.py": """
import os
import setuptools

def prepare_metadata_for_build_wheel(folder, settings=None):
    name = f"{setuptools.name}-0.19.8.dist-info"
    os.mkdir(f"{folder}/{name}")
    with open(f"{folder}/{name}/METADATA", "w") as out:
        out.write(f"Metadata-Version: 2.1\\nName: {setuptools.name}\\nVersion: 0.19.8\\n")
    return name
""",
    }
    path = folder / "deepspeed-0.19.8.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"deepspeed-0.19.8/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def pip_wheel() -> Path:
    """The one that Python's ensurepip has."""
    folders = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    found = [path for folder in folders for path in folder.glob("pip-*.whl")]
    assert found, "ensurepip has no pip: install Debian's python3.11-venv"
    return found[0]


def locked(item: Artifact, path: Path) -> Artifact:
    """The item, as the file's name and bytes have it."""
    name, version = path.name.split("-")[:2]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(item, name=name, version=version, file=path.name, sha256=digest)


@pytest.fixture
def python(tmp_path: Path, conda: CondaLock) -> Builder:
    """A builder whose venv is there, whose lock has pip and one package, and whose context has their wheels."""
    root, recipe = tmp_path / "root", bare(small_recipe())
    wheels = root / "run/artifacts/wheels"
    wheels.mkdir(parents=True)
    pip = wheels / pip_wheel().name
    pip.write_bytes(pip_wheel().read_bytes())
    lock = small_lock(recipe)
    items = tuple(locked(lock.python[0], path) for path in (pip, make_wheel(wheels, "tqdm", "bar = 1\n")))
    made = Builder(recipe, replace(lock, python=items), conda, root)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "opt/venv")], check=True)
    return made


class TestPythonPackages:
    def test_are_installed_from_what_the_host_fetched(self, python: Builder) -> None:
        assert python.do("pip download").returncode == 0
        done = python.do("--no-index --find-links")
        assert done.returncode == 0, done.stderr
        site = python.root / "opt/venv/lib/python3.11/site-packages"
        assert (site / "tqdm.py").read_text() == "bar = 1\n"
        assert (site / "pip").is_dir()  # as the recipe asks; without it the wheel alone would install
        assert not (site / "tqdm-1.0.dist-info/direct_url.json").exists()
        assert {path.lstat().st_mtime for path in site.rglob("*")} == {MTIME}
        assert list(site.rglob("*.pyc")) == []

    def test_are_downloaded_from_the_index_of_pip_conf_where_nothing_was_fetched(
        self, tmp_path: Path, conda: CondaLock
    ) -> None:
        root, index = tmp_path / "root", tmp_path / "index"
        index.mkdir()
        pip, tqdm = shutil.copy(pip_wheel(), index), make_wheel(index, "tqdm", "bar = 1\n")
        tools, source = make_wheel(index, "setuptools", "name = 'deepspeed'\n"), make_source(index)
        recipe = small_recipe()
        lock = small_lock(recipe)
        item = lock.python[0]
        assert lock.native is not None
        native = replace(
            lock.native,
            source=replace(locked(item, source), kind="sdist", version="0.19.8"),
            build=(locked(item, tools),),
        )
        python = (locked(item, Path(pip)), locked(item, tqdm))
        made = Builder(recipe, replace(lock, python=python, native=native), conda, root)
        (root / "opt/conda/bin").mkdir(parents=True)
        (root / "opt/conda/bin/python3.11").symlink_to(made.env["PYTHON"])
        configuration = tmp_path / "pip.conf"
        configuration.write_text(f"[global]\nno-index = true\nfind-links = {index}\n")
        done = made.do("pip download", PIP_CONFIG_FILE=str(configuration), HOME=str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(path.name for path in (root / "tmp/wheels").iterdir()) == sorted(
            path.name for path in index.iterdir()
        )
        assert [path.name for path in (root / "tmp").iterdir()] == ["wheels"]

    @pytest.mark.parametrize("name", ["tqdm", "pip"])
    def test_other_bytes_under_a_locked_name_are_refused(self, python: Builder, name: str) -> None:
        python.do("pip download")
        (path,) = (python.root / "run/artifacts/wheels").glob(f"{name}-*.whl")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("evil.py", "")
        done = python.do("--no-index --find-links")
        assert done.returncode != 0
        refusal = f"{path.name}: FAILED" if name == "pip" else "DO NOT MATCH THE HASHES"
        assert refusal in done.stdout + done.stderr
        assert not list((python.root / "opt/venv").rglob("tqdm.py"))

    def test_byte_code_is_the_same_twice_and_fits_its_source(self, python: Builder) -> None:
        (python.root / "opt/conda/lib/python3.11").mkdir(parents=True)
        site = python.root / "opt/venv/lib/python3.11/site-packages"
        (site / "tqdm.py").write_text("bar = {1, 2, 3}\n")
        (site / "template.py").write_text("{{ not python\n")
        seen = []
        for _ in range(2):
            done = python.do("compileall")
            assert done.returncode == 0, done.stderr
            seen.append(
                {
                    str(path): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime)
                    for path in (python.root / "opt/venv").rglob("*")
                }
            )
        assert seen[0] == seen[1]
        assert {time for _, time in seen[0].values()} == {MTIME}
        (cached,) = (site / "__pycache__").glob("tqdm.*.pyc")
        assert (
            int.from_bytes(cached.read_bytes()[4:8], "little") == 0
        )  # by time, so that an edit takes effect
        assert int.from_bytes(cached.read_bytes()[8:12], "little") == MTIME


@pytest.fixture
def jupyter() -> Iterator[tuple[int, list[int]]]:
    """A server on a free port of 127.0.0.1, and the status that it answers /api with."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/api" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, status
    server.shutdown()
    thread.join()
    server.server_close()


class TestHealth:
    def healthy(self, builder: Builder, command: list[str], **env: str) -> bool:
        script = health(builder.text)
        assert script is not None
        assert "/proc/1/cmdline" in script
        told = builder.root / "etc/cmdline"
        told.parent.mkdir(exist_ok=True)
        told.write_bytes(
            b"".join(f"{word}\0".encode() for word in ["/usr/bin/tini", "-s", "-g", "--", *command])
        )
        placed = script.replace("/proc/1/cmdline", "/etc/cmdline")
        done = run(placed, builder.root, env, shell=("/bin/sh", "-c"))
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0

    def test_whatever_is_not_jupyter_is_healthy(self, builder: Builder) -> None:
        assert self.healthy(builder, ["bash"])
        assert self.healthy(builder, ["python", "train.py"], JUPYTER_PORT="1")

    @pytest.mark.parametrize("command", [["envbuild-jupyter"], ["jupyter", "lab"], ["jupyter-lab"]])
    def test_jupyter_is_healthy_while_it_answers(
        self, builder: Builder, jupyter: tuple[int, list[int]], command: list[str]
    ) -> None:
        port, status = jupyter
        assert self.healthy(builder, command, JUPYTER_PORT=str(port))
        assert self.healthy(builder, [*command, f"--port={port}"])
        assert self.healthy(builder, [*command, "--port", str(port)])
        status[0] = 500
        assert not self.healthy(builder, command, JUPYTER_PORT=str(port))

    def test_jupyter_that_does_not_listen_is_not_healthy(self, builder: Builder) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port
            assert not self.healthy(builder, ["envbuild-jupyter"], JUPYTER_PORT=str(held.getsockname()[1]))
