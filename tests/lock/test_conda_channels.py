"""Where channels are read from, and what is said when they cannot be."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from condaworld import CondaLocker, Site, channel, record, site

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaChannels, CondaLock
from envbuild.lock.conda.channels import VARIABLE, canonical_url
from envbuild.lock.conda.solve import Question, Solver

QUESTION = Question(
    channels=("conda-forge",), specs=("python 3.11.*",), virtual={"__glibc": "2.28"}, before="2026-11-20T23:59:59Z"
)  # fmt: skip
RECORD = record("python", "3.11.9")


def solved(tmp_path: Path, environ: Mapping[str, str], *options: str) -> list[str]:
    """The files that are found, with the channels of this environment."""
    channels = CondaChannels.from_machine({"HOME": str(tmp_path / "home"), **environ}, options)
    return [package.file for package in Solver(channels, tmp_path / "cache").solve(QUESTION).packages]


def refused(tmp_path: Path, exit: Exit, id: str, *options: str) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        solved(tmp_path, {}, *options)
    assert (caught.value.id, caught.value.exit) == (id, exit), caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return channel(tmp_path / "good", RECORD)


@pytest.fixture
def served(good: Path) -> Site:
    with site() as running:
        running.add(good, "/one/conda-forge")
        yield running


# the order in which places count


def test_the_option_counts_before_the_variable_and_that_before_condarc(
    tmp_path: Path, good: Path, served: Site
) -> None:
    nowhere = "conda-forge=http://127.0.0.1:9/x"
    condarc = tmp_path / "condarc"
    condarc.write_text("channel_alias: http://127.0.0.1:9/\n")
    environ = {VARIABLE: nowhere, "CONDARC": str(condarc)}
    assert solved(tmp_path, environ, f"conda-forge={good}") == ["python-3.11.9-0.conda"]
    environ[VARIABLE] = f"other=/nowhere conda-forge={good}"
    with pytest.raises(EnvbuildError, match="there is no folder /nowhere"):
        solved(tmp_path, environ)
    environ[VARIABLE] = f"conda-forge={good}"
    assert solved(tmp_path, environ) == ["python-3.11.9-0.conda"]
    del environ[VARIABLE]
    condarc.write_text(f"channel_alias: http://{served.host}/one\n")
    assert solved(tmp_path, environ) == ["python-3.11.9-0.conda"]


@pytest.mark.parametrize(
    "text",
    ["channel_alias: ${SITE}/one\n", "custom_channels:\n  conda-forge: $SITE/one/\n"],
    ids=["channel_alias", "custom_channels"],
)
def test_condas_own_configuration_counts(tmp_path: Path, served: Site, text: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".condarc").write_text(text)
    assert solved(tmp_path, {"SITE": f"http://{served.host}"}) == ["python-3.11.9-0.conda"]


def test_a_later_condarc_counts_and_a_variable_before_all(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".conda").mkdir(parents=True)
    (home / ".conda/.condarc").write_text("channel_alias: https://early.invalid/\nssl_verify: false\n")
    (home / ".condarc").write_text("channel_alias: https://late.invalid/\n")
    environ = {"HOME": str(home)}
    channels = CondaChannels.from_machine(environ)
    assert channels.place("conda-forge") == "https://late.invalid/conda-forge/"
    assert channels.condarc.ssl_verify is False
    own = CondaChannels.from_machine({**environ, "CONDA_CHANNEL_ALIAS": "https://own.invalid"})
    assert own.place("conda-forge") == "https://own.invalid/conda-forge/"


def test_without_any_word_the_channel_is_read_from_its_own_address(tmp_path: Path) -> None:
    channels = CondaChannels.from_machine({"HOME": str(tmp_path)})
    assert channels.place("conda-forge") == canonical_url("conda-forge")
    assert channels.is_own("conda-forge")


def test_a_file_is_fetched_from_where_the_channel_is_read(conda: CondaLocker, tmp_path: Path) -> None:
    own = channel(tmp_path / "own", RECORD, base_url="https://conda.invalid/x/")
    lock: CondaLock = conda.lock(conda.recipe(INTERPRETER), f"conda-forge={own}")
    [package] = lock.packages
    plain = CondaChannels.from_machine({"HOME": str(tmp_path)})
    mirrored = CondaChannels.from_machine({"HOME": str(tmp_path)}, ["conda-forge=https://mirror.invalid/y"])
    assert plain.address(lock, package) == "https://conda.invalid/x/linux-64/python-3.11.9-0.conda"
    assert mirrored.address(lock, package) == "https://mirror.invalid/y/linux-64/python-3.11.9-0.conda"


INTERPRETER = """\
description = "x"
[python]
version = "3.11"
[torch]
version = "2.8.0"
[cuda]
version = "12.8"
cudnn = "9.10.2.21"
nccl = "2.27.3"
"""


# what cannot be a place


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("conda-forge", "is not NAME=URL or NAME=DIR"),
        ("Conda=/x", "is not NAME=URL or NAME=DIR"),
        ("conda-forge=ftp://a/b", "is no http, https or file address"),
        ("conda-forge=/nowhere", "there is no folder /nowhere"),
        ("conda-forge=file:///nowhere", "there is no folder /nowhere"),
    ],
)
def test_an_option_that_names_no_place(tmp_path: Path, option: str, message: str) -> None:
    assert message in refused(tmp_path, Exit.USAGE, "wrong-channel", option).message


def test_a_folder_without_repodata(tmp_path: Path, good: Path) -> None:
    (good / "noarch/repodata.json").unlink()
    error = refused(tmp_path, Exit.USAGE, "wrong-channel", f"conda-forge={good}")
    assert "it has no noarch/repodata.json" in error.message


@pytest.mark.parametrize("text", ["a: [", "- a\n", "custom_channels: [1]\n"])
def test_a_condarc_that_is_none(tmp_path: Path, text: str) -> None:
    condarc = tmp_path / "condarc"
    condarc.write_text(text)
    with pytest.raises(EnvbuildError) as caught:
        CondaChannels.from_machine({"CONDARC": str(condarc)})
    assert (caught.value.id, caught.value.exit, caught.value.where) == (
        "wrong-condarc",
        Exit.USAGE,
        str(condarc),
    )


# channels that do not answer, or answer with something else


def test_a_channel_that_cannot_be_reached(tmp_path: Path) -> None:
    error = refused(tmp_path, Exit.NETWORK, "channel-down", "conda-forge=http://user:secret@127.0.0.1:9/x")
    assert "conda-forge (http://127.0.0.1:9/x/) cannot be read: " in error.message
    assert "refused" in error.message
    assert "secret" not in error.message + error.hint
    assert "--only image" in error.hint
    assert "--channel" in error.hint


@pytest.mark.parametrize(
    ("status", "id"), [(404, "channel-down"), (401, "channel-refused"), (403, "channel-refused")]
)
def test_a_channel_that_refuses(tmp_path: Path, served: Site, status: int, id: str) -> None:
    served.status = status
    error = refused(tmp_path, Exit.NETWORK, id, f"conda-forge=http://{served.host}/one/conda-forge")
    assert str(status) in error.message


def test_a_channel_behind_a_login_page(tmp_path: Path, served: Site) -> None:
    served.body = b"<html>who are you?</html>"
    error = refused(
        tmp_path, Exit.VERIFY, "channel-wrong", f"conda-forge=http://{served.host}/one/conda-forge"
    )
    assert "serves what is no repodata" in error.message


@pytest.mark.parametrize(
    "content",
    [b"hello", b"<html>", b"[1, 2]", b"\xff\xfe", b'{"info": {"subdir": "linux-64"}, "packages.conda": {'],
    ids=["text", "html", "array", "bytes", "cut"],
)  # fmt: skip
def test_a_folder_with_wrong_bytes(tmp_path: Path, good: Path, content: bytes) -> None:
    (good / "linux-64/repodata.json").write_bytes(content)
    error = refused(tmp_path, Exit.VERIFY, "channel-wrong", f"conda-forge={good}")
    assert "no repodata" in error.message


def test_a_packed_folder_with_wrong_bytes(tmp_path: Path, good: Path) -> None:
    (good / "linux-64/repodata.json").unlink()
    (good / "linux-64/repodata.json.zst").write_bytes(b"no zstd")
    error = refused(tmp_path, Exit.VERIFY, "channel-wrong", f"conda-forge={good}")
    assert error.where == str(good / "linux-64/repodata.json.zst")


@pytest.mark.parametrize(
    ("change", "id", "message"),
    [
        ({"sha256": None}, "no-hash", "gives no sha256 for python-3.11.9-0.conda"),
        ({"subdir": "osx-64"}, "channel-wrong", "for osx-64"),
    ],
)
def test_a_record_that_cannot_be_locked(
    tmp_path: Path, change: dict[str, str | None], id: str, message: str
) -> None:
    wrong = {key: value for key, value in {**RECORD, **change}.items() if value is not None}
    folder = channel(tmp_path / "wrong", wrong)
    assert message in refused(tmp_path, Exit.VERIFY, id, f"conda-forge={folder}").message


# proxies and certificates


def test_condas_proxy_is_used(tmp_path: Path, served: Site) -> None:
    condarc = tmp_path / "condarc"
    condarc.write_text(f"proxy_servers:\n  http: http://{served.host}\n")
    found = solved(tmp_path, {"CONDARC": str(condarc)}, "conda-forge=http://far.invalid/one/conda-forge")
    assert found == ["python-3.11.9-0.conda"]
    assert any(path.startswith("http://far.invalid/") for path in served.requests)


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority of one's own, and a server's side for 127.0.0.1 that it signed."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    ca, key, request, signed = (folder / name for name in ("ca.pem", "key.pem", "request.pem", "signed.pem"))
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-keyout", folder / "ca.key", "-out", ca, "-days", 2, "-subj", "/CN=authority")
    openssl(*new, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", folder / "ca.key", "-CAcreateserial", "-out", signed,
        "-days", 2, "-extfile", extensions,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    return ca, context


@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "condarc", "off"])
def test_an_authority_of_ones_own(
    tmp_path: Path, good: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    ca, context = authority(tmp_path)
    condarc = tmp_path / "condarc"
    condarc.write_text(
        f"ssl_verify: {ca if way == 'condarc' else 'false'}\n" if way in ("condarc", "off") else ""
    )
    with site(tls=context) as running:
        running.add(good, "/one/conda-forge")
        place = f"conda-forge=https://{running.host}/one/conda-forge"
        error = refused(tmp_path, Exit.NETWORK, "channel-down", place)
        assert "certificate" in error.message
        environ = {"CONDARC": str(condarc), **({} if way in ("condarc", "off") else {way: str(ca)})}
        assert solved(tmp_path, environ, place) == ["python-3.11.9-0.conda"]
