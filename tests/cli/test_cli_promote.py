"""``promote``: which verdict gives a tag, by whose key; ``key``: the public half for others."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from clirun import ROOT, Cli
from smallimage import COMMITTED
from verdictmaker import own_key, signed, verdict_about

from envbuild.gate import SigningKey, Verdict
from envbuild.gate.envelope import seal
from envbuild.gate.statement import statement_bytes
from envbuild.image.locked import image_of
from envbuild.lock import Lock, read_lock
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image
from envbuild.smoke.fingerprint import fingerprint

V27 = "pytorch-cuda:v2.7"
OTHER = "sha256:" + "d" * 64
STRANGER = SigningKey(seed=bytes(32), where="another machine's")


@pytest.fixture
def locked(recipes: Path) -> tuple[Image, Lock]:
    lock = read_lock(COMMITTED)
    image = image_of(lock)
    assert image is not None
    return image, lock


@pytest.fixture
def key(cli: Cli) -> SigningKey:
    return own_key(cli.folder / "home")


def refused(cli: Cli, id: str, verdict: bytes, *arguments: str, code: int = 6) -> str:
    """Promoting with this verdict fails before anything is fetched or built."""
    file = cli.folder / "verdict.json"
    file.write_bytes(verdict)
    done = cli.fails(code, id, "promote", V27, "--verdict", str(file), *arguments)
    assert not (cli.folder / "store" / "artifacts").exists()
    return done.err


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[]", "\0" * 100])
def test_garbage_is_refused(cli: Cli, text: str) -> None:
    refused(cli, "bad-verdict", text.encode())


def test_a_verdict_that_is_not_there(cli: Cli) -> None:
    cli.fails(6, "no-verdict", "promote", V27, "--verdict", "none.json")


def test_an_unsigned_verdict_is_refused(cli: Cli, locked: tuple[Image, Lock], recipes: Path) -> None:
    refused(cli, "verdict-not-signed", json.dumps(verdict_about(*locked, V27, recipes)).encode())
    old = '{"kind": "envbuild.verdict", "format": 1, "result": "passed"}'
    refused(cli, "verdict-not-signed", old.encode())


@pytest.mark.parametrize("name", ["verdict-oci.json", "verdict-sandbox.json"])
def test_verdicts_from_before_signatures_are_evidence_and_promote_nothing(cli: Cli, name: str) -> None:
    file = ROOT / "docs/verdicts/2026-11-20-2xh200" / name
    assert json.loads(file.read_bytes())["result"] == "passed"
    refused(cli, "verdict-not-signed", file.read_bytes())
    cli.fails(6, "verdict-not-signed", "verdict", str(file))


def test_a_verdict_about_another_image_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    image, lock = locked
    foreign = replace(image, layers=image.layers[:-1])
    about = signed(verdict_about(foreign, lock, V27, recipes), key)
    err = refused(cli, "verdict-about-another-image", about)
    assert foreign.digest in err
    assert image.digest in err


def test_what_is_no_pass_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    about = verdict_about(*locked, V27, recipes)
    refused(cli, "verdict-not-a-pass", signed({**about, "result": "candidate"}, key))
    for changes in ({"checks": about["checks"][1:]}, {"gpus": about["gpus"][:1]}):
        refused(cli, "verdict-contradicts-itself", signed({**about, **changes}, key))
    failed = [{**check, "status": "failed"} for check in about["checks"]]
    refused(cli, "verdict-contradicts-itself", signed({**about, "checks": failed}, key))
    refused(cli, "verdict-not-a-pass", signed({**about, "result": "failed", "checks": failed}, key))


def test_a_verdict_of_other_expectations_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    about = verdict_about(*locked, V27, recipes)
    other = {**about, "expectations": {**about["expectations"], "cuda": "12.8"}}
    refused(cli, "verdict-of-other-expectations", signed(other, key))


def test_a_verdict_of_another_lock_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    about = verdict_about(*locked, V27, recipes, lock=OTHER)
    err = refused(cli, "verdict-of-another-lock", signed(about, key))
    assert OTHER in err
    assert of_bytes((recipes / "pytorch-cuda/v2.7/lock.json").read_bytes()) in err


def test_a_verdict_of_another_suite_is_refused_until_the_suite_is_named(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    """Named, it gets past that: what is refused then is the result."""
    about = signed(verdict_about(*locked, V27, recipes, suite=OTHER, result="candidate"), key)
    err = refused(cli, "verdict-of-another-suite", about)
    assert f"--suite {OTHER}" in err
    assert fingerprint() in err
    refused(cli, "verdict-of-another-suite", about, "--suite", "sha256:" + "e" * 64)
    refused(cli, "verdict-not-a-pass", about, "--suite", OTHER)
    shown = cli("verdict", str(cli.folder / "verdict.json"))
    assert f"\nsuite: {OTHER} (not this envbuild's" in shown.out


@pytest.mark.parametrize("suite", ["x", "", "sha256:1", "sha256:" + "A" * 64])
def test_a_suite_that_is_no_hash_is_a_fault_of_the_call(cli: Cli, suite: str) -> None:
    refused(cli, "wrong-suite", b"{}", "--suite", suite, code=2)


@pytest.mark.parametrize(
    ("started", "id"),
    [
        ("2999-01-01T00:00:00Z", "verdict-from-the-future"),
        ("zzz", "bad-verdict"),
        ("2026-02-30T00:00:00Z", "bad-verdict"),
    ],
)
def test_when_a_verdict_was_made_must_be_a_time_that_was(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey, started: str, id: str
) -> None:
    about = json.dumps(verdict_about(*locked, V27, recipes)).replace("2026-01-20T10:00:00Z", started)
    payload = json.loads(statement_bytes(msgspec.convert(verdict_about(*locked, V27, recipes), type=Verdict)))
    payload["predicate"]["envbuild"] = json.loads(about)
    refused(cli, id, seal(json.dumps(payload).encode(), key))


def test_a_verdict_about_a_python_environment_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    about = verdict_about(*locked, V27, recipes, subject=None, lock=None, engine="here")
    assert "without --here" in refused(cli, "verdict-about-no-image", signed(about, key))


def test_a_verdict_that_was_edited_is_refused(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    about = verdict_about(*locked, V27, recipes, result="candidate")
    envelope = json.loads(signed(about, key))
    payload = base64.b64decode(envelope["payload"])
    better = payload.replace(b'"candidate"', b'"passed"').replace(b'"FAILED"', b'"PASSED"')
    assert better != payload
    envelope["payload"] = base64.b64encode(better).decode()
    refused(cli, "verdict-signature-wrong", json.dumps(envelope).encode())


def test_a_strangers_verdict_is_refused_until_the_key_is_given(
    cli: Cli, locked: tuple[Image, Lock], recipes: Path, key: SigningKey
) -> None:
    """Given the key, it gets past the signature: what is refused then is the content."""
    about = signed(verdict_about(*locked, V27, recipes, result="candidate"), STRANGER)
    err = refused(cli, "verdict-by-unknown-key", about)
    assert STRANGER.public.id in err
    assert "envbuild key show > pub.pem" in err
    pem = cli.folder / "pub.pem"
    pem.write_text(STRANGER.public.pem)
    refused(cli, "verdict-not-a-pass", about, "--key", str(pem))
    trusting = replace(cli, env={**cli.env, "ENVBUILD_TRUSTED_KEYS": str(pem)})
    refused(trusting, "verdict-not-a-pass", about)
    (cli.folder / "config.toml").write_text(f'trusted-keys = ["{pem}"]\n')
    refused(replace(cli, env={**cli.env, "ENVBUILD_CONFIG": "config.toml"}), "verdict-not-a-pass", about)


def test_a_key_that_is_none_is_a_fault_of_the_call(cli: Cli) -> None:
    (cli.folder / "pub.pem").write_text("garbage")
    refused(cli, "bad-key", b"{}", "--key", "pub.pem", code=2)
    refused(cli, "bad-key", b"{}", "--key", "none.pem", code=2)


def test_refusing_makes_no_key(cli: Cli) -> None:
    refused(cli, "bad-verdict", b"{}")
    assert not (cli.folder / "home/.config").exists()


def test_key_show_makes_the_key_once_and_prints_its_public_half(cli: Cli) -> None:
    assert cli("key", "list").out == "none yet: `envbuild key show` makes this machine's own\n"
    first = cli("key", "show")
    assert (first.code, first.err.splitlines()[0][:19]) == (0, "made a signing key:")
    subprocess.run(["openssl", "pkey", "-pubin", "-noout"], input=first.out.encode(), check=True)
    again = cli("key", "show", "--json")
    assert again.value["public_key"] == first.out
    assert again.value["id"] in first.err
    assert cli("key", "show", "--quiet").err == ""
    assert cli("key", "list").out == again.value["id"] + "\n"
    [row] = cli("key", "list", "--json").value
    assert row == {"id": again.value["id"], "public_key": first.out}
    assert "PRIVATE" not in first.out + first.err + again.out + again.err


def test_key_show_follows_the_environment(cli: Cli) -> None:
    made = ["openssl", "genpkey", "-algorithm", "ed25519"]
    pem = subprocess.run(made, capture_output=True, check=True, text=True).stdout
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=pem, capture_output=True, check=True, text=True
    ).stdout
    done = cli("key", "show", env={"ENVBUILD_SIGNING_KEY": pem})
    assert done.out == public
    assert not (cli.folder / "home/.config").exists()
    cli.fails(2, "bad-key", "key", "show", env={"ENVBUILD_SIGNING_KEY": "garbage"})
