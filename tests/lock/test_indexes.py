"""Which indexes a machine has: ENVBUILD_*, uv, pip and apt, in that order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Indexes
from envbuild.lock.pipconfig import read


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def bare(home: Path) -> dict[str, str]:
    """An environment that configures nothing."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CONFIG_DIRS": str(home / "etc")}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


class TestPython:
    def test_envbuilds_own_variable_wins_over_everything(self, bare: dict[str, str], home: Path) -> None:
        write(home / ".config/uv/uv.toml", '[[index]]\nurl = "http://uv.example/simple"\ndefault = true\n')
        more = {"UV_INDEX": "http://more.example/simple", "PIP_INDEX_URL": "http://pip.example/simple"}
        found = Indexes.from_machine({**bare, **more, "ENVBUILD_PYTHON_INDEX": "http://own.example/simple/"})
        assert found.python == ("http://own.example/simple",)

    def test_uvs_configuration_wins_over_pips(self, bare: dict[str, str], home: Path) -> None:
        write(home / ".config/uv/uv.toml", '[[index]]\nurl = "http://uv.example/simple"\ndefault = true\n')
        found = Indexes.from_machine({**bare, "PIP_INDEX_URL": "http://pip.example/simple"})
        assert found.python == ("http://uv.example/simple",)

    def test_uvs_further_indexes_come_before_its_default(self, bare: dict[str, str]) -> None:
        environ = {
            **bare,
            "UV_DEFAULT_INDEX": "http://last.example/simple",
            "UV_INDEX": "http://first.example/simple",
        }
        assert Indexes.from_machine(environ).python == (
            "http://first.example/simple",
            "http://last.example/simple",
        )

    @pytest.mark.parametrize("place", [".config/pip/pip.conf", ".pip/pip.conf", "etc/pip/pip.conf"])
    def test_pips_index_counts_where_uv_has_none(self, bare: dict[str, str], home: Path, place: str) -> None:
        write(home / place, "[global]\nindex-url = http://pip.example/simple\n")
        assert Indexes.from_machine(bare).python == ("http://pip.example/simple",)

    def test_pips_variable_wins_over_its_files(self, bare: dict[str, str], home: Path) -> None:
        write(home / ".config/pip/pip.conf", "[global]\nindex-url = http://file.example/simple\n")
        found = Indexes.from_machine({**bare, "PIP_INDEX_URL": "http://variable.example/simple"})
        assert found.python == ("http://variable.example/simple",)

    def test_with_nothing_configured_uvs_default_is_used(self, bare: dict[str, str]) -> None:
        found = Indexes.from_machine({**bare, "PIP_CONFIG_FILE": "/dev/null"})
        assert len(found.python) == 1
        assert "UV_DEFAULT_INDEX" not in found.environ

    def test_credentials_do_not_show(self, bare: dict[str, str]) -> None:
        found = Indexes.from_machine(
            {**bare, "ENVBUILD_PYTHON_INDEX": "http://user:secret@own.example/simple"}
        )
        assert found.python == ("http://user:secret@own.example/simple",)
        assert "secret" not in repr(found)

    def test_a_projects_configuration_in_the_working_folder_takes_no_part(
        self, bare: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(home / "work/uv.toml", '[[index]]\nurl = "http://project.example/simple"\ndefault = true\n')
        monkeypatch.chdir(home / "work")
        assert "project.example" not in str(Indexes.from_machine(bare).python)


class TestPipSettings:
    def test_certificate_and_proxy_reach_uv_and_http(self, bare: dict[str, str], home: Path) -> None:
        write(
            home / ".config/pip/pip.conf",
            "[global]\ncert = /etc/own.pem\nproxy = http://proxy.example:3128\n",
        )
        environ = Indexes.from_machine(bare).environ
        assert (environ["SSL_CERT_FILE"], environ["https_proxy"]) == (
            "/etc/own.pem",
            "http://proxy.example:3128",
        )

    def test_what_the_environment_says_already_stays(self, bare: dict[str, str], home: Path) -> None:
        write(
            home / ".config/pip/pip.conf",
            "[global]\ncert = /etc/own.pem\nproxy = http://proxy.example:3128\n",
        )
        mine = {"SSL_CERT_FILE": "/etc/mine.pem", "HTTPS_PROXY": "http://mine.example"}
        environ = Indexes.from_machine({**bare, **mine}).environ
        assert environ["SSL_CERT_FILE"] == "/etc/mine.pem"
        assert "https_proxy" not in environ

    def test_the_files_count_from_the_systems_to_the_named_one(
        self, bare: dict[str, str], home: Path
    ) -> None:
        write(home / "etc/pip/pip.conf", "[global]\nindex_url = http://a.example\ncert = /a.pem\n")
        write(home / ".config/pip/pip.conf", "[install]\nindex-url = http://b.example\n")
        write(home / "named.conf", "[global]\nproxy = http://c.example\n")
        found = read({**bare, "PIP_CONFIG_FILE": str(home / "named.conf")}, system=home / "none")
        assert (found.index_url, found.cert, found.proxy) == (
            "http://b.example",
            "/a.pem",
            "http://c.example",
        )

    def test_a_broken_file_is_left_to_pip(self, bare: dict[str, str], home: Path) -> None:
        write(home / ".config/pip/pip.conf", "index-url = http://no-section.example\n")
        assert read(bare, system=home / "none").index_url is None


def fake_apt(folder: Path, targets: str, proxy: str = "") -> str:
    folder.mkdir()
    for name, output in (("apt-get", targets), ("apt-config", proxy)):
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


class TestDebian:
    def test_the_mirror_is_the_one_apt_uses_for_debian(
        self, bare: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        targets = (
            "https://other.example/apt stable-tools\ncdrom:[Debian]/ bookworm\nhttp://mirror.example/debian/ bookworm\n"
            "http://late.example/debian/ trixie\nhttp://sec.example/debian-security/ bookworm-security"
        )
        monkeypatch.setenv("PATH", fake_apt(home / "bin", targets))
        found = Indexes.from_machine(bare)
        assert (found.debian, found.debian_security) == (
            "http://mirror.example/debian", "http://sec.example/debian-security",
        )  # fmt: skip

    def test_apts_proxy_is_used_unless_there_is_one(
        self, bare: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = fake_apt(
            home / "bin", "http://mirror.example/debian/ bookworm", "proxy='http://cache.example:3142'"
        )
        monkeypatch.setenv("PATH", path)
        assert Indexes.from_machine(bare).environ["http_proxy"] == "http://cache.example:3142"
        mine = Indexes.from_machine({**bare, "HTTP_PROXY": "http://mine.example"})
        assert "http_proxy" not in mine.environ

    def test_the_variables_win_and_security_lies_beside(self, bare: dict[str, str]) -> None:
        found = Indexes.from_machine({**bare, "ENVBUILD_DEBIAN_MIRROR": "http://own.example/debian/"})
        assert (found.debian, found.debian_security) == (
            "http://own.example/debian", "http://own.example/debian-security",
        )  # fmt: skip

    def test_another_distributions_sources_are_no_mirror_of_debian(
        self, bare: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", fake_apt(home / "bin", "http://ubuntu.example/ubuntu/ jammy"))
        assert Indexes.from_machine(bare).debian is None


@pytest.mark.parametrize(
    "name",
    [
        "ENVBUILD_PYTHON_INDEX",
        "ENVBUILD_DEBIAN_MIRROR",
        "ENVBUILD_DEBIAN_SECURITY_MIRROR",
        "ENVBUILD_ARTIFACT_MIRROR",
    ],
)
@pytest.mark.parametrize("value", ["mirror.example", "ftp://mirror.example/x", "https://"])
def test_a_variable_without_a_usable_address_is_refused(bare: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        Indexes.from_machine({**bare, name: value})
    assert (caught.value.id, caught.value.exit, caught.value.where) == ("wrong-address", Exit.USAGE, name)
