"""The files of a conda environment, as the programs read them that they are for: PyYAML, py-rattler, conda-lock.

The golden ones are those at the repository's top; the lock that they come from is the committed one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conda_lock.content_hash import backwards_compatible_content_hashes, compute_content_hashes
from conda_lock.lockfile import parse_conda_lock_file, write_conda_lock_file
from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency, Lockfile, LockMeta
from conda_lock.src_parser.environment_yaml import parse_environment_file
from conda_lock.virtual_package import FakeRepoData, virtual_package_repo_from_specification
from rattler import Channel, MatchSpec, solve
from rattler.exceptions import SolverError
from rattler.explicit_environment import ExplicitEnvironmentSpec

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, CondaPackage, read_conda_lock
from envbuild.lock.conda.records import to_record, virtual_packages
from envbuild.recipe import Recipe, Ref, load_recipe, parse_ref
from envbuild.render import check
from envbuild.render.conda import FILES, conda_export, conda_files, explicit_urls, in_order
from envbuild.render.condalock import conda_lock_yml, dependencies

ROOT = Path(__file__).parents[2]
RECIPES = [ROOT / "recipes"]
CEP_23 = re.compile(
    r"(?:(?P<url_p>.+)(?:[/\\]))?(?P<fn>[^/\\#]+(?:\.tar\.bz2|\.conda))"
    r"(?:#((?P<md5>[0-9a-f]{32})|((sha256:)?(?P<sha256>[0-9a-f]{64}))))?$"
)
"""A line of an explicit file: https://github.com/conda/ceps, CEP 23."""

Identity = tuple[str, str, str]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(Ref(name="ds-train", tag="v2.7"), RECIPES)


@pytest.fixture(scope="module")
def lock(recipe: Recipe) -> CondaLock:
    return read_conda_lock(recipe.conda_lock_path)


@pytest.fixture(scope="module")
def files(recipe: Recipe, lock: CondaLock) -> dict[str, str]:
    return conda_files(recipe, lock)


def identities(lock: CondaLock) -> set[Identity]:
    return {(package.name, package.version, package.build) for package in lock.packages}


def conda_lines(text: str) -> list[str]:
    """The conda packages of an environment.yml."""
    return [line for line in yaml.safe_load(text)["dependencies"] if isinstance(line, str)]


def test_the_committed_files_are_what_the_lock_gives(recipe: Recipe, lock: CondaLock) -> None:
    assert check(recipe, None, lock, ROOT) == []


def test_only_the_four_files_of_ds_train_lie_at_the_top(
    recipe: Recipe, lock: CondaLock, files: dict[str, str]
) -> None:
    assert sorted(files) == sorted(FILES.values())
    assert conda_files(replace(recipe, ref=Ref(name="ds-train", tag="v9")), lock) == {}


def test_rendering_knows_no_clock_user_or_folder(
    recipe: Recipe, lock: CondaLock, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "11.0")
    monkeypatch.chdir(tmp_path)
    assert conda_files(recipe, lock) == files
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_channel_is_named(lock: CondaLock, files: dict[str, str]) -> None:
    (channel,) = lock.channels
    for text in files.values():
        assert not re.search(r"https?://", text.replace(channel.url, ""))


class TestEnvironmentYml:
    def test_holds_every_package_exactly(self, lock: CondaLock, files: dict[str, str]) -> None:
        value = yaml.safe_load(files["environment.yml"])
        assert sorted(value) == ["channels", "dependencies", "name"]
        assert value["name"] == "ds-train-v2.7"
        assert value["channels"] == ["conda-forge"]
        assert {tuple(line.split("=")) for line in conda_lines(files["environment.yml"])} == identities(lock)
        (pip,) = [entry for entry in value["dependencies"] if isinstance(entry, dict)]
        assert pip == {"pip": ["--require-hashes", "-r environment.deepspeed.txt"]}
        assert "pip" in {name for name, _, _ in identities(lock)}

    def test_each_line_matches_its_record_and_no_other(self, lock: CondaLock, files: dict[str, str]) -> None:
        for line, package in zip(conda_lines(files["environment.yml"]), lock.packages, strict=True):
            spec = MatchSpec(line)
            assert spec.matches(to_record(lock, package))
            for other in (
                replace(package, build="other_0"),
                replace(package, version=f"{package.version}.1"),
            ):
                assert not spec.matches(to_record(lock, other))

    def test_a_solver_takes_it_for_the_machine_that_it_names(
        self, lock: CondaLock, files: dict[str, str], tmp_path: Path
    ) -> None:
        lines = conda_lines(files["environment.yml"])
        assert solved(lock, lines, lock.virtual, tmp_path) == identities(lock)

    def test_a_solver_refuses_it_without_a_driver(
        self, lock: CondaLock, files: dict[str, str], tmp_path: Path
    ) -> None:
        assert "CONDA_OVERRIDE_CUDA=12.6" in files["environment.yml"]
        without = {name: text for name, text in lock.virtual.items() if name != "__cuda"}
        with pytest.raises(SolverError, match="__cuda"):
            solved(lock, conda_lines(files["environment.yml"]), without, tmp_path)

    def test_the_command_that_it_documents_is_the_plain_one(self, files: dict[str, str]) -> None:
        assert "#   conda env create -f environment.yml\n" in files["environment.yml"]

    def test_every_channel_is_one_for_each_conda(self, recipe: Recipe, lock: CondaLock) -> None:
        """conda before 26.7 knows ``nodefaults`` as a word; later ones ask for a channel of that name, and fail."""
        other = load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), RECIPES)
        for of, conda in ((recipe, lock), (other, read_conda_lock(other.conda_lock_path))):
            channels = yaml.safe_load(conda_export(of, conda, "environment"))["channels"]
            before_26_7 = [name for name in channels if name != "nodefaults"]
            assert channels == before_26_7 == [channel.name for channel in conda.channels]

    def test_what_pip_is_given_stands_with_its_hash(self, lock: CondaLock, files: dict[str, str]) -> None:
        lines = files["environment.deepspeed.txt"].replace(" \\\n", "").splitlines()
        assert [line.split() for line in lines if not line.startswith("#")] == [
            [f"{item.name}=={item.version}", f"--hash=sha256:{item.sha256}"] for item in lock.pip
        ]
        assert [item.name for item in lock.pip] == ["deepspeed", "ninja"]

    def test_without_deepspeed_there_is_no_pip(self, recipe: Recipe, lock: CondaLock) -> None:
        bare, plain = replace(recipe, deepspeed=None), replace(lock, pip=())
        files = conda_files(bare, plain)
        assert "environment.deepspeed.txt" not in files
        assert all("PIP_NO" not in text and "environment.deepspeed" not in text for text in files.values())
        assert all(isinstance(line, str) for line in yaml.safe_load(files["environment.yml"])["dependencies"])
        with pytest.raises(EnvbuildError) as caught:
            conda_export(bare, plain, "deepspeed")
        assert (caught.value.id, caught.value.exit) == ("no-deepspeed", Exit.INPUT)


def solved(lock: CondaLock, specs: Sequence[str], virtual: dict[str, str], folder: Path) -> set[Identity]:
    """What py-rattler's solver makes of ``specs`` where the channel holds the lock's packages only."""
    for subdir in ("linux-64", "noarch"):
        records = {
            package.file: {
                "name": package.name, "version": package.version, "build": package.build, "subdir": subdir,
                "build_number": package.build_number, "depends": package.depends, "constrains": package.constrains,
                "sha256": package.sha256, "size": package.size, "noarch": package.noarch,
                "track_features": " ".join(package.track_features),
            }
            for package in lock.packages
            if package.subdir == subdir
        }  # fmt: skip
        (folder / subdir).mkdir()
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records}
        (folder / subdir / "repodata.json").write_text(json.dumps(index))
    found = asyncio.run(
        solve(
            [Channel(folder.as_uri())],
            [MatchSpec(spec) for spec in specs],
            platforms=["linux-64", "noarch"],
            virtual_packages=virtual_packages(virtual),
        )
    )
    return {(record.name.normalized, str(record.version), str(record.build)) for record in found}


class TestExplicitList:
    def test_every_reader_finds_every_address_with_its_hash(
        self, lock: CondaLock, files: dict[str, str]
    ) -> None:
        text = files["environment.explicit.txt"]
        seen = ExplicitEnvironmentSpec.from_str(text)
        expected = {f"{lock.url(package)}#{package.md5}" for package in lock.packages}
        assert str(seen.platform) == "linux-64"
        assert {entry.url for entry in seen.packages} == expected
        assert len(seen.packages) == len(lock.packages)
        lines = text.splitlines()
        lines = lines[lines.index("@EXPLICIT") + 1 :]
        assert all((match := CEP_23.fullmatch(line)) and match["md5"] for line in lines)

    def test_each_package_stands_after_what_it_needs(self, lock: CondaLock) -> None:
        order = [package.name for package in in_order(lock.packages)]
        assert sorted(order) == sorted(package.name for package in lock.packages)
        for package in lock.packages:
            for needed in dependencies(package):
                if not needed.startswith("__"):
                    assert order.index(needed) < order.index(package.name), (needed, package.name)

    def test_python_stands_before_the_pip_that_it_asks_for(self) -> None:
        packages = [
            small("aaa", "pip"),
            small("pip", "python >=3.10", "setuptools"),
            small("python", "libfoo", "pip"),
            small("setuptools", "python"),
            small("libfoo", "__glibc >=2.17"),
        ]
        expected = ["libfoo", "python", "setuptools", "pip", "aaa"]
        assert [package.name for package in in_order(packages)] == expected
        assert [package.name for package in in_order(reversed(packages))] == expected

    def test_packages_that_need_each_other_stand_once(self) -> None:
        assert [package.name for package in in_order([small("a", "b"), small("b", "a")])] == ["b", "a"]

    def test_sha256_where_it_is_asked_for_or_there_is_no_md5(self, lock: CondaLock) -> None:
        python = lock.package("python")
        assert explicit_urls(lock, [python], "sha256") == [f"{lock.url(python)}#sha256:{python.sha256}"]
        bare = replace(python, md5=None)
        (line,) = explicit_urls(lock, [bare])
        assert (match := CEP_23.fullmatch(line))
        assert match["sha256"] == python.sha256
        seen = ExplicitEnvironmentSpec.from_str(f"@EXPLICIT\n{line}\n")
        assert [entry.url for entry in seen.packages] == [line]


def small(name: str, *depends: str) -> CondaPackage:
    return CondaPackage(
        name=name, version="1", build="0", build_number=0, subdir="noarch", file=f"{name}-1-0.conda", size=1,
        sha256="0" * 64, md5="0" * 32, channel="conda-forge", depends=depends,
    )  # fmt: skip


def conda_environment(lock: CondaLock) -> str:
    """An environment.yml of the lock's packages."""
    return yaml.safe_dump(
        {
            "channels": [*(channel.name for channel in lock.channels), "nodefaults"],
            "dependencies": [f"{item.name}={item.version}={item.build}" for item in lock.packages],
        }
    )


def virtual_repository(lock: CondaLock, folder: Path) -> FakeRepoData:
    """conda-lock's view of the lock's virtual packages."""
    file = folder / "virtual-packages.yml"
    packages = {name: text.replace("=", " ") for name, text in lock.virtual.items()}
    file.write_text(yaml.safe_dump({"subdirs": {"linux-64": {"packages": packages}}}))
    return virtual_package_repo_from_specification(file)


def by_conda_lock(lock: CondaLock, environment: str, folder: Path) -> Lockfile:
    """The lock as conda-lock's own values, with its own content hash."""
    source = folder / "environment.yml"
    source.write_text(environment)
    asked = parse_environment_file(source, ["linux-64"], mapping_url=str(folder / "none.json"))
    return Lockfile(
        package=[
            LockedDependency(
                name=item.name, version=item.version, manager="conda", platform="linux-64",
                dependencies=dependencies(item), url=lock.url(item),
                hash=HashModel(md5=item.md5, sha256=item.sha256), categories={"main"},
            )
            for item in lock.packages
        ],
        metadata=LockMeta(
            content_hash=compute_content_hashes(asked, virtual_repository(lock, folder)),
            channels=[channel.name for channel in lock.channels],
            platforms=["linux-64"],
            sources=["environment.yml"],
        ),
    )  # fmt: skip


class TestCondaLockYml:
    def test_conda_locks_parser_finds_every_package_with_both_hashes(self, lock: CondaLock) -> None:
        seen = parse_conda_lock_file(ROOT / "conda-lock.yml")
        assert {
            (item.name, item.version, item.url, item.hash.md5, item.hash.sha256) for item in seen.package
        } == {(item.name, item.version, lock.url(item), item.md5, item.sha256) for item in lock.packages}
        assert {(item.manager, item.platform, *item.categories) for item in seen.package} == {
            ("conda", "linux-64", "main")
        }
        assert len(seen.package) == len(lock.packages)
        for item in seen.package:
            assert set(item.dependencies) == set(dependencies(lock.package(item.name)))
            for name, spec in item.dependencies.items():
                assert str(MatchSpec(f"{name} {spec}".strip())).startswith(name)

    def test_it_holds_nothing_of_the_machine(self) -> None:
        metadata = yaml.safe_load((ROOT / "conda-lock.yml").read_text())["metadata"]
        assert sorted(metadata) == ["channels", "content_hash", "platforms", "sources"]
        assert [channel["url"] for channel in metadata["channels"]] == ["conda-forge"]
        assert metadata["sources"] == ["environment.yml"]

    @pytest.mark.parametrize("kind", ["explicit", "env"])
    def test_conda_lock_renders_it_to_the_same_packages(
        self, kind: str, lock: CondaLock, files: dict[str, str], tmp_path: Path
    ) -> None:
        program = Path(sys.executable).with_name("conda-lock")
        command = [program, "render", "--kind", kind, ROOT / "conda-lock.yml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (written,) = tmp_path.iterdir()
        text = written.read_text()
        if kind == "env":
            assert sorted(yaml.safe_load(text)["dependencies"]) == sorted(
                conda_lines(files["environment.yml"])
            )
            return
        lines = [line for line in text.splitlines() if not line.startswith(("#", "@"))]
        assert sorted(lines) == sorted(explicit_urls(lock, lock.packages))

    def test_conda_lock_knows_environment_yml_as_what_was_locked(
        self, lock: CondaLock, tmp_path: Path
    ) -> None:
        """What ``conda-lock --check-input-hash`` asks, for the virtual packages that the file names."""
        machine = virtual_repository(lock, tmp_path)
        locked = parse_conda_lock_file(ROOT / "conda-lock.yml").metadata.content_hash

        def hashes(path: Path) -> set[str]:
            asked = parse_environment_file(path, ["linux-64"], mapping_url=str(tmp_path / "none.json"))
            return backwards_compatible_content_hashes(asked, machine, "linux-64")

        assert sorted(locked) == ["linux-64"]
        assert locked["linux-64"] in hashes(ROOT / "environment.yml")
        edited = tmp_path / "environment.yml"
        text = (ROOT / "environment.yml").read_text()
        python = lock.package("python")
        edited.write_text(text.replace(f"python={python.version}=", "python=3.11.0="))
        assert locked["linux-64"] not in hashes(edited)

    def test_two_conditions_on_one_package_are_one(self) -> None:
        package = small(
            "x",
            "python >=3.10",
            "python_abi 3.11.* *_cp311",
            "a >=1,<2",
            "a 1.5.*",
            "b",
            "b >=2",
            "c * x_*",
            "c 1.*",
        )
        expected = {
            "python": ">=3.10",
            "python_abi": "3.11.* *_cp311",
            "a": ">=1,<2,1.5.*",
            "b": ">=2",
            "c": "1.* x_*",
        }
        assert dependencies(package) == expected

    @pytest.mark.parametrize("ref", ["ds-train:v2.7", "pytorch-cuda:v2.7", "pytorch-cuda:v2.8-devel"])
    def test_it_is_what_conda_lock_itself_writes(self, ref: str, tmp_path: Path) -> None:
        recipe = load_recipe(parse_ref(ref), RECIPES)
        lock = read_conda_lock(recipe.conda_lock_path)
        asked = conda_environment(lock)
        written = tmp_path / "conda-lock.yml"
        write_conda_lock_file(
            by_conda_lock(lock, asked, tmp_path), written, metadata_choices=None, include_help_text=False
        )
        assert conda_lock_yml(lock, asked) == written.read_text()

    def test_it_is_written_without_conda_lock(
        self, recipe: Recipe, lock: CondaLock, files: dict[str, str], tmp_path: Path
    ) -> None:
        """A plain installation brings no conda-lock."""
        (tmp_path / "conda_lock.py").write_text("raise ImportError('not installed')\n")
        environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "envbuild", "render", "ds-train:v2.7", "--check"]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_package_without_md5_is_refused(self, recipe: Recipe, lock: CondaLock) -> None:
        odd = replace(
            lock, packages=tuple(replace(p, md5=None) if p.name == "pip" else p for p in lock.packages)
        )
        with pytest.raises(EnvbuildError, match=r"conda-forge gives pip-\S+ no md5") as caught:
            conda_export(recipe, odd, "conda-lock")
        assert (caught.value.id, caught.value.exit) == ("no-md5", Exit.INPUT)


def test_a_description_cannot_leave_its_comment(recipe: Recipe, lock: CondaLock) -> None:
    files = conda_files(replace(recipe, description="x\n@EXPLICIT\nname: evil"), lock)
    for text in files.values():
        assert not re.search(r"^(@EXPLICIT\nname|name: evil)", text, re.M)


def test_what_a_recipe_declares_to_be_other_than_its_image_is_said(recipe: Recipe, lock: CondaLock) -> None:
    other = load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), RECIPES)
    conda = read_conda_lock(other.conda_lock_path)
    for form in set(FILES) - {"deepspeed"}:
        (line,) = [line for line in conda_export(other, conda, form).splitlines() if "declares: " in line]
        said = line.partition("declares: ")[2].rstrip(".").split(", ")
        assert said[: len(other.conda.versions)] == [
            f"{name} {v}" for name, v in sorted(other.conda.versions.items())
        ]
        assert said[len(other.conda.versions) :] == [f"no {name}" for name in other.conda.without]
        assert "declares" not in conda_export(recipe, lock, form)


def envbuild(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("envbuild")
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


class TestCommands:
    def test_check_shows_the_line_of_an_edit(
        self, lock: CondaLock, files: dict[str, str], tmp_path: Path
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        call = ("render", "ds-train:v2.7", "--check", "--output", str(tmp_path))
        assert envbuild(*call).returncode == 0
        numpy = lock.package("numpy")
        old, new = f"  - numpy={numpy.version}={numpy.build}", f"  - numpy={numpy.version}"
        lines = files["environment.yml"].splitlines()
        at = lines.index(old)
        (tmp_path / "environment.yml").write_text("\n".join([*lines[:at], new, *lines[at + 1 :], ""]))
        done = envbuild(*call)
        assert done.returncode == Exit.INPUT
        assert "error[rendering-differs]" in done.stderr
        assert f"environment.yml:{at + 1}:\n" in done.stderr
        assert f"\n  -{new}\n  +{old}\n" in done.stderr
        assert "hint: run `envbuild render ds-train:v2.7`" in done.stderr
        assert (tmp_path / "environment.yml").read_text() != files["environment.yml"]

    @pytest.mark.parametrize("form", sorted(FILES))
    def test_export_prints_another_recipes_files(self, form: str, tmp_path: Path) -> None:
        other = load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), RECIPES)
        done = envbuild("export", "pytorch-cuda:v2.7", "--format", form)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == conda_export(other, read_conda_lock(other.conda_lock_path), form)
        assert f"envbuild export pytorch-cuda:v2.7 --format {form}" in done.stdout
        assert "--check" not in done.stdout

    @pytest.mark.parametrize("form", sorted(FILES))
    def test_a_recipe_without_environment_is_refused(self, form: str) -> None:
        done = envbuild("export", "pytorch-cuda:v2.8", "--format", form, "--json")
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["id"]) == (Exit.INPUT, "makes-no-environment")
        assert "recipe.toml" in error["where"]
        assert "makes" in error["hint"]
