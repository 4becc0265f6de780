"""One key signs here: made once, for its owner alone, or given by the environment. Others' are read as PEM."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.keys import (
    known_key,
    private_key,
    public_keys,
    signing_key,
    trusted_keys,
)


def openssl(*arguments, data=b""):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def pem():
    return openssl("genpkey", "-algorithm", "ed25519").decode()


def refused(function, *texts):
    with pytest.raises(EnvbuildError) as caught:
        function()
    assert (caught.value.id, caught.value.exit) == ("bad-key", Exit.USAGE)
    assert caught.value.hint
    for text in texts:
        assert text in f"{caught.value.where} {caught.value.message} {caught.value.hint}"


def test_the_first_use_makes_a_key_that_stays_and_that_only_its_owner_reads(tmp_path):
    folder = tmp_path / "config" / "envbuild"
    assert known_key({}, folder) is None
    assert not folder.exists()
    key = signing_key({}, folder)
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert signing_key({}, folder).seed == key.seed
    found = known_key({}, folder)
    assert found is not None
    assert found.public == key.public
    assert key.seed.hex() not in repr(key)
    assert str(key.seed) not in repr(key)


def test_processes_that_start_together_agree_on_one_key(tmp_path):
    """Eight processes wait for a file, then all ask for the key at once."""
    code = (
        "import sys, time, pathlib\n"
        "from envbuild.gate.keys import signing_key\n"
        "import cryptography.hazmat.primitives.asymmetric.ed25519\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(signing_key({}, folder / 'config').public.id)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda process: process.communicate("\n", timeout=60)[0], started))
    assert len(set(said)) == 1
    assert said[0].strip() == signing_key({}, tmp_path / "config").public.id
    assert [path.name for path in (tmp_path / "config").iterdir()] == ["signing-key.pem"]


def test_the_public_half_and_its_id_are_what_openssl_says(pem):
    key = private_key(pem.encode(), where="test")
    assert key.public.pem.encode() == openssl("pkey", "-pubout", data=pem.encode())
    der = openssl("pkey", "-pubout", "-outform", "DER", data=pem.encode())
    assert key.public.id == openssl("dgst", "-sha256", "-r", data=der).decode().split()[0]
    assert public_keys(key.public.pem.encode(), where="test") == [key.public]


def test_the_environment_gives_the_key_and_none_is_made(pem, tmp_path):
    want = private_key(pem.encode(), where="test").public
    (tmp_path / "key.pem").write_text(pem)
    folder = tmp_path / "config"
    for environ in (
        {"ENVBUILD_SIGNING_KEY": pem},
        {"ENVBUILD_SIGNING_KEY_FILE": str(tmp_path / "key.pem")},
    ):
        assert signing_key(environ, folder).public == want
        assert trusted_keys(environ, folder) == (want,)
    assert not folder.exists()
    both = {"ENVBUILD_SIGNING_KEY": pem, "ENVBUILD_SIGNING_KEY_FILE": "x"}
    refused(lambda: signing_key(both, folder), "both", "unset one")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-algorithm", "ed25519", "-aes256", "-pass", "pass:abc"], "passphrase"),
        (["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"], "not an Ed25519 key"),
        (["-algorithm", "ed448"], "not an Ed25519 key"),
    ],
)
def test_a_key_that_cannot_sign_verdicts_is_named(tmp_path, arguments, said):
    file = tmp_path / "key.pem"
    file.write_bytes(openssl("genpkey", *arguments))
    refused(
        lambda: signing_key({"ENVBUILD_SIGNING_KEY_FILE": str(file)}, tmp_path), said, str(file), "openssl"
    )


@pytest.mark.parametrize(
    "text", ["garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key_is_refused(tmp_path, text):
    refused(
        lambda: signing_key({"ENVBUILD_SIGNING_KEY": text}, tmp_path),
        "ENVBUILD_SIGNING_KEY",
        "openssl genpkey",
    )


def test_a_public_key_signs_nothing_and_a_private_one_is_not_given_away(pem, tmp_path):
    public = private_key(pem.encode(), where="test").public.pem
    refused(lambda: signing_key({"ENVBUILD_SIGNING_KEY": public}, tmp_path), "no private key")
    (tmp_path / "private.pem").write_text(pem)
    refused(
        lambda: trusted_keys({}, tmp_path / "config", [tmp_path / "private.pem"]),
        "private key",
        "envbuild key show",
    )


def test_a_file_that_is_not_there_is_named(tmp_path):
    none = tmp_path / "none.pem"
    refused(
        lambda: signing_key({"ENVBUILD_SIGNING_KEY_FILE": str(none)}, tmp_path), str(none), "No such file"
    )
    refused(lambda: trusted_keys({}, tmp_path, [none]), str(none))
    refused(lambda: trusted_keys({"ENVBUILD_TRUSTED_KEYS": str(none)}, tmp_path), str(none))


def test_an_own_key_that_others_can_read_is_refused(tmp_path):
    signing_key({}, tmp_path)
    (tmp_path / "signing-key.pem").chmod(0o644)
    refused(lambda: signing_key({}, tmp_path), "chmod 600")


def test_a_folder_that_takes_no_key_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    refused(lambda: signing_key({}, tmp_path / "file" / "envbuild"), "ENVBUILD_SIGNING_KEY_FILE")


def test_trusted_keys_come_from_files_folders_and_the_own_key_each_once(pem, tmp_path, stranger):
    own = signing_key({}, tmp_path / "config").public
    one = private_key(pem.encode(), where="test").public
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "b.pem").write_text(stranger.public.pem)
    (folder / "notes.txt").write_text("not read")
    (tmp_path / "two.pem").write_text(one.pem + own.pem)
    environ = {"ENVBUILD_TRUSTED_KEYS": os.pathsep.join([str(folder), str(tmp_path / "two.pem")])}
    assert trusted_keys(environ, tmp_path / "config", [tmp_path / "two.pem"]) == (own, one, stranger.public)


@pytest.mark.parametrize(
    "text", ["", "garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_what_is_no_public_key_is_refused(tmp_path, text):
    (tmp_path / "key.pem").write_text(text)
    refused(lambda: trusted_keys({}, tmp_path, [tmp_path / "key.pem"]), "key.pem")


def test_another_kind_of_public_key_is_refused(tmp_path):
    rsa = openssl("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024")
    (tmp_path / "key.pem").write_bytes(openssl("pkey", "-pubout", data=rsa))
    refused(lambda: trusted_keys({}, tmp_path, [tmp_path / "key.pem"]), "not an Ed25519 key")
