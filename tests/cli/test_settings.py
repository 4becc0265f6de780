"""Settings are resolved once: flags > environment > config file > default."""

from __future__ import annotations

from pathlib import Path

import pytest

from envbuild.cli.settings import resolve
from envbuild.errors import EnvbuildError, Exit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('store = "/from/config"\njobs = 3\nrecipes = ["/a", "/b"]\n', encoding="utf-8")
    return path


def test_the_config_file_fills_in_what_nothing_else_says(config: Path) -> None:
    settings = resolve({"ENVBUILD_CONFIG": str(config)})
    assert settings.store == Path("/from/config")
    assert settings.jobs == 3
    assert settings.recipes == (Path("/a"), Path("/b"))


def test_the_environment_beats_the_config_file(config: Path) -> None:
    settings = resolve({"ENVBUILD_CONFIG": str(config), "ENVBUILD_STORE": "/from/env", "ENVBUILD_JOBS": "5"})
    assert settings.store == Path("/from/env")
    assert settings.jobs == 5


def test_a_flag_beats_everything(config: Path) -> None:
    settings = resolve(
        {"ENVBUILD_CONFIG": str(config), "ENVBUILD_STORE": "/from/env"}, store=Path("/flag"), jobs=7
    )
    assert settings.store == Path("/flag")
    assert settings.jobs == 7


def test_values_of_the_config_file_reach_the_code_that_asks_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('debian-mirror = "http://127.0.0.1/debian"\n', encoding="utf-8")
    settings = resolve({"ENVBUILD_CONFIG": str(path)})
    assert settings.environ["ENVBUILD_DEBIAN_MIRROR"] == "http://127.0.0.1/debian"


@pytest.mark.parametrize(
    ("text", "id"),
    [("stor = 1", "bad-config"), ("store = ", "bad-config"), (None, "no-config")],
)
def test_a_bad_config_file_is_one_clear_error(tmp_path: Path, text: str | None, id: str) -> None:
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(EnvbuildError) as caught:
        resolve({"ENVBUILD_CONFIG": str(path)})
    assert caught.value.id == id
    assert caught.value.exit is Exit.USAGE
    assert str(path) in f"{caught.value.where} {caught.value.message}"


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_jobs_is_a_whole_number_from_one(text: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        resolve({"ENVBUILD_JOBS": text})
    assert caught.value.id == "bad-setting"


def test_an_engine_that_does_not_exist_is_refused_before_anything_starts() -> None:
    assert resolve({"ENVBUILD_ENGINE": "oci"}).engine == "oci"
    with pytest.raises(EnvbuildError) as caught:
        resolve({"ENVBUILD_ENGINE": "podmann"})
    assert caught.value.id == "bad-setting"
    assert "docker, oci, sandbox" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "9" * 5000,
        "x = 2026-99-99",
        "\0",
        'store = "a\\u0000b"',
        "jobs = 0x" + "f" * 9999,
        ".".join("a" * 400) + " = 1",
        "#" * (2 << 20),
    ],
    ids=[
        "nested",
        "a long number",
        "no date",
        "nul",
        "an escaped nul",
        "a long hexadecimal",
        "many parts",
        "too big",
    ],
)
def test_a_config_file_that_is_none_gives_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(EnvbuildError) as caught:
        resolve({"ENVBUILD_CONFIG": str(path)})
    assert (caught.value.id, caught.value.exit) == ("bad-config", Exit.USAGE)


@pytest.mark.parametrize("jobs", ["²", "1" * 5000, "0", "-1", "x", "٣"])
def test_a_number_of_jobs_that_is_none_gives_one_error(config: Path, jobs: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        resolve({"ENVBUILD_CONFIG": str(config), "ENVBUILD_JOBS": jobs})
    assert caught.value.exit == Exit.USAGE


def test_no_config_file_at_all_is_said_by_dev_null() -> None:
    assert resolve({"ENVBUILD_CONFIG": "/dev/null", "ENVBUILD_JOBS": "3"}).jobs == 3
