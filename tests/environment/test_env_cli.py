"""``envbuild env create``, as users have it, with the real recipe and a channel of stand-ins for its packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from clirun import NOWHERE, ROOT, Cli
from condachannel import Sdist, ninja_wheel, serve_channel, standins
from envworld import said
from faulty_server import FaultyServer, flipped

from envbuild.lock import CondaLock, conda_lock_bytes, read_conda_lock

REF = "ds-train"


@pytest.fixture(scope="module")
def real() -> CondaLock:
    return read_conda_lock(ROOT / "recipes/ds-train/v2.7/conda.lock.json")


@pytest.fixture(scope="module")
def replaced(real: CondaLock, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CondaLock]:
    folder = tmp_path_factory.mktemp("conda-forge")
    return folder, standins(real, folder)


@pytest.fixture
def cli(tmp_path: Path, server: FaultyServer, sdist: Sdist, replaced: tuple[Path, CondaLock]) -> Cli:
    """The recipes with stand-ins for all packages of ds-train, whose channel ``server`` serves."""
    from dataclasses import replace

    folder, lock = replaced
    recipes = Path(shutil.copytree(ROOT / "recipes", tmp_path / "recipes"))
    ninja = ninja_wheel()
    ninja.serve(server)
    lock = replace(lock, pip=(sdist.artifact, ninja.artifact))
    (recipes / "ds-train/v2.7/conda.lock.json").write_bytes(conda_lock_bytes(lock))
    home = tmp_path / "home"
    home.mkdir()
    return Cli(
        folder=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PIP_CONFIG_FILE": "/dev/null",
            "ENVBUILD_STORE": str(tmp_path / "store"),
            "ENVBUILD_RECIPES": str(recipes),
            "ENVBUILD_PYTHON_INDEX": sdist.serve(server),
            "ENVBUILD_CONDA_CHANNELS": f"conda-forge={serve_channel(server, folder, '/conda-forge')}",
        },
    )


def test_the_real_recipe_end_to_end(cli: Cli, replaced: tuple[Path, CondaLock]) -> None:
    done = cli("env", "create", REF, "--prefix", "env", "--json")
    assert done.code == 0, done
    prefix = cli.folder / "env"
    packages = replaced[1].packages
    assert done.value == {
        "ref": "ds-train:v2.7",
        "prefix": str(prefix),
        "packages": len(packages),
        "pip": ["deepspeed 0.19.8", "ninja 1.13.2"],
        "made": True,
        "python": f"{prefix}/bin/python",
        "bytes_to_fetch": done.value["bytes_fetched"],
        "bytes_fetched": done.value["bytes_fetched"],
        "seconds": done.value["seconds"],
        "notes": done.value["notes"],
    }
    assert set(done.value["seconds"]) == {"fetch", "link", "byte code", "pip", "finish", "total"}
    assert said(prefix / "bin/deepspeed") == "cuda ''\n"
    assert said(prefix / "bin/ninja") == "1.13.2\n"
    listed = {path.stem for path in (prefix / "conda-meta").glob("*.json")}
    assert listed == {f"{item.name}-{item.version}-{item.build}" for item in packages}
    assert "unpack and link" in done.err
    assert cli("gc", "--json").value["artifacts"] == 0
    again = cli.fails(2, "prefix-exists", "env", "create", REF, "--prefix", "env", "--json")
    assert again.value["error"]["id"] == "prefix-exists"


def test_a_dry_run_fetches_and_makes_nothing(
    cli: Cli, server: FaultyServer, replaced: tuple[Path, CondaLock]
) -> None:
    done = cli("env", "create", f"{REF}:v2.7", "-p", "env", "--dry-run", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.value["made"] is False
    assert done.value["bytes_to_fetch"] > sum(item.size for item in replaced[1].packages)
    assert server.requests == []
    assert not (cli.folder / "env").exists()


def test_the_option_wins_and_what_to_do_next_is_printed(cli: Cli, replaced: tuple[Path, CondaLock]) -> None:
    variables = {"CONDA_OVERRIDE_CUDA": "12.6", "ENVBUILD_CONDA_CHANNELS": f"conda-forge={NOWHERE}"}
    where = f"conda-forge={replaced[0]}"
    done = cli("env", "create", REF, "--prefix", "my env", "--channel", where, "--quiet", env=variables)
    prefix = cli.folder / "my env"
    assert (done.code, done.err) == (0, "")
    assert f"conda activate '{prefix}'" in done.out
    assert f"'{prefix}/bin/python'" in done.out


def test_a_tampered_package_is_one_error(
    cli: Cli, server: FaultyServer, replaced: tuple[Path, CondaLock]
) -> None:
    package = replaced[1].package("jupyterlab")
    server.always[f"/conda-forge/{package.subdir}/{package.file}"] = flipped(300)
    done = cli.fails(5, "wrong-hash", "env", "create", REF, "--prefix", "env", "--json")
    assert done.value["error"]["where"] == package.file
    assert "jupyterlab" in done.value["error"]["message"]
    assert not (cli.folder / "env").exists()


@pytest.mark.parametrize(
    ("variables", "needs"),
    [({"CONDA_OVERRIDE_GLIBC": "2.12"}, "__glibc >=2.17"), ({"CONDA_OVERRIDE_CUDA": "11.8"}, "__cuda >=12")],
)
def test_a_machine_that_is_too_old_is_told_before_anything_is_fetched(
    cli: Cli, server: FaultyServer, variables: dict[str, str], needs: str
) -> None:
    done = cli.fails(2, "machine-lacks", "env", "create", REF, "--prefix", "env", env=variables)
    assert needs in done.err
    assert server.requests == []


def test_a_recipe_that_makes_only_an_image(cli: Cli) -> None:
    done = cli.fails(2, "makes-no-environment", "env", "create", "pytorch-cuda:v2.8", "--prefix", "env")
    assert "envbuild image pytorch-cuda:v2.8" in done.err


def test_a_lock_that_does_not_fit_the_recipe(cli: Cli) -> None:
    recipe = cli.folder / "recipes/ds-train/v2.7/recipe.toml"
    recipe.write_text(recipe.read_text().replace('"0.19.8"', '"0.19.7"'))
    done = cli.fails(3, "lock-is-stale", "env", "create", REF, "--prefix", "env")
    assert "0.19.7" in done.err


def test_a_lock_for_another_platform(cli: Cli) -> None:
    lock = cli.folder / "recipes/ds-train/v2.7/conda.lock.json"
    lock.write_text(lock.read_text().replace('"platform": "linux-64"', '"platform": "osx-arm64"'))
    cli.fails(3, "lock-for-another-platform", "env", "create", REF, "--prefix", "env")


def test_usage(cli: Cli) -> None:
    cli.fails(2, "usage", "env", "create", REF)
    cli.fails(2, "usage", "env", "destroy")
    cli.fails(3, "no-recipe", "env", "create", "ds-tran", "--prefix", "env")
    cli.fails(2, "wrong-channel", "env", "create", REF, "--prefix", "env", "--channel", "conda-forge")
    cli.fails(2, "bad-prefix", "env", "create", REF, "--prefix", "a:b")
    shown = cli("env")
    assert (shown.code, shown.out) == (2, "")
    assert "create" in shown.err


def test_a_channel_that_is_down(cli: Cli) -> None:
    done = cli.fails(
        4,
        "source-failed",
        "env",
        "create",
        REF,
        "-p",
        "env",
        env={"ENVBUILD_CONDA_CHANNELS": f"conda-forge={NOWHERE}"},
    )
    assert "channel conda-forge" in done.err
    assert not (cli.folder / "env").exists()
