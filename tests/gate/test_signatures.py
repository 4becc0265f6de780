"""A verdict is believed by its signature: what was changed, is unsigned, or is a stranger's is refused."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.envelope import PAYLOAD_TYPE, encoding, seal
from envbuild.gate.signed import parse_signed, read_verdict, sign_verdict
from envbuild.gate.statement import statement_bytes

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"


def statement_of(verdict):
    return json.loads(statement_bytes(verdict))


def refused(id, data, trusted, *texts):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    with pytest.raises(EnvbuildError) as caught:
        parse_signed(data, trusted=trusted, where="verdict.json")
    assert (caught.value.id, caught.value.exit) == (id, Exit.GATE), caught.value
    assert caught.value.where == "verdict.json"
    assert "envbuild" in caught.value.hint
    for text in texts:
        assert text in caught.value.message + caught.value.hint


@pytest.fixture
def signed(report, verdict_of, key):
    return sign_verdict(verdict_of(report), key)


@pytest.fixture
def envelope(signed):
    return json.loads(signed)


def payload_of(envelope):
    return json.loads(base64.b64decode(envelope["payload"]))


def with_payload(envelope, value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {**envelope, "payload": base64.b64encode(text).decode()}


def signed_content(value, key):
    return seal(value if isinstance(value, bytes) else json.dumps(value).encode(), key)


# what is written


def test_the_statement_is_a_test_result_about_manifest_and_config(report, verdict_of, image):
    verdict = verdict_of(report)
    statement = statement_of(verdict)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == TEST_RESULT
    assert [subject["digest"]["sha256"] for subject in statement["subject"]] == [
        image.digest.removeprefix("sha256:"),
        image.config.digest.removeprefix("sha256:"),
    ]
    predicate = statement["predicate"]
    assert predicate["result"] == "PASSED"
    assert predicate["passedTests"] == [check["id"] for check in report["checks"]]
    assert predicate["warnedTests"] == predicate["failedTests"] == []
    assert [item["name"] for item in predicate["configuration"]] == ["expectations", "suite", "lock.json"]
    assert all(len(item["digest"]["sha256"]) == 64 for item in predicate["configuration"])
    assert predicate["envbuild"] == json.loads(json.dumps(verdict.to_dict()))


def test_a_warning_a_failure_and_a_candidate_are_told_apart(report, verdict_of):
    report["checks"][1]["warnings"] = ["GPU 0 is throttled"]
    predicate = statement_of(verdict_of(report))["predicate"]
    assert (predicate["result"], predicate["warnedTests"]) == ("WARNED", [report["checks"][1]["id"]])
    assert report["checks"][1]["id"] not in predicate["passedTests"]
    report["checks"][2]["status"] = "not-run"
    report["result"] = "candidate"
    predicate = statement_of(verdict_of(report))["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", [])
    assert report["checks"][2]["id"] not in predicate["passedTests"]
    report["checks"][3]["status"] = "failed"
    report["result"] = "failed"
    predicate = statement_of(verdict_of(report))["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", [report["checks"][3]["id"]])


def test_a_python_environment_is_a_subject_without_an_images_digest(report, verdict_of):
    [subject] = statement_of(verdict_of(report, about=None, lock=None))["subject"]
    assert subject["name"] == "/opt/venv/bin/python"
    assert list(subject["digest"]) == ["envbuildPackages"]


def test_the_same_verdict_and_key_give_the_same_bytes(report, verdict_of, key, signed):
    assert sign_verdict(verdict_of(report), key) == signed


def test_openssl_verifies_the_signature(envelope, key, tmp_path):
    [signature] = envelope["signatures"]
    message = encoding(PAYLOAD_TYPE, base64.b64decode(envelope["payload"]))
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "signature").write_bytes(base64.b64decode(signature["sig"]))
    (tmp_path / "key.pem").write_text(key.public.pem)
    command = "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in message -sigfile signature"
    assert subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "message").write_bytes(message + b" ")
    assert subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_another_reader_of_dsse_verifies_it(envelope, key, stranger):
    def theirs(public):
        return SSlibKey(public.id, "ed25519", "ed25519", {"public": public.raw.hex()})

    read = Envelope.from_dict(json.loads(json.dumps(envelope)))
    assert list(read.verify([theirs(key.public)], 1)) == [key.public.id]
    with pytest.raises(VerificationError):
        read.verify([theirs(stranger.public)], 1)
    assert json.loads(read.payload)["predicateType"] == TEST_RESULT


# what is read


def test_a_signed_verdict_is_read_with_who_signed_it(signed, report, verdict_of, key, stranger):
    found = parse_signed(signed, trusted=[stranger.public, key.public], where="x")
    assert found.verdict == verdict_of(report)
    assert found.keys == (key.public,)


def test_another_key_is_refused_with_its_id(signed, key, stranger):
    refused("verdict-by-unknown-key", signed, [stranger.public], key.public.id, "--key pub.pem")
    refused("verdict-by-unknown-key", signed, [], key.public.id)


def edited(statement):
    """Each edit that a person would try, by hand, in the content."""
    verdict = statement["predicate"]["envbuild"]
    yield lambda: verdict.update(result="passed", why="all is well")
    yield lambda: verdict["subject"].update(manifest="sha256:" + "0" * 64)
    yield lambda: statement["subject"][0]["digest"].update(sha256="0" * 64)
    yield lambda: verdict["checks"][0].update(status="failed")
    yield verdict["gpus"].pop
    yield verdict["environment"].clear


@pytest.mark.parametrize("number", range(6))
def test_an_edit_by_hand_is_refused(envelope, key, number):
    statement = payload_of(envelope)
    list(edited(statement))[number]()
    assert statement != payload_of(envelope) or number == 0
    refused(
        "verdict-signature-wrong",
        with_payload(envelope, statement),
        [key.public],
        "changed after it was signed",
    )


def test_a_changed_signature_or_one_of_another_file_is_refused(envelope, report, verdict_of, key):
    report["seconds"] = 1.0
    other = json.loads(sign_verdict(verdict_of(report), key))
    refused("verdict-signature-wrong", {**envelope, "signatures": other["signatures"]}, [key.public])


def test_a_stranger_who_takes_the_trusted_keys_name_is_refused(report, verdict_of, key, stranger):
    forged = json.loads(sign_verdict(verdict_of(report), stranger))
    forged["signatures"][0]["keyid"] = key.public.id
    refused("verdict-signature-wrong", forged, [key.public])


def test_a_signature_without_key_id_is_tried_with_every_trusted_key(envelope, key, stranger):
    del envelope["signatures"][0]["keyid"]
    data = json.dumps(envelope).encode()
    assert parse_signed(data, trusted=[stranger.public, key.public], where="x").keys == (key.public,)
    refused("verdict-by-unknown-key", envelope, [stranger.public])


def test_two_signatures(signed, report, verdict_of, key, stranger):
    """A good one by a trusted key suffices; a wrong one in a trusted key's name spoils the file."""
    both = parse_signed(signed, trusted=[key.public], where="x").accepted_by(stranger)
    assert [public.id for public in both.keys] == [key.public.id, stranger.public.id]
    for trusted in ([key.public], [stranger.public], [key.public, stranger.public]):
        assert parse_signed(both.data, trusted=trusted, where="x").keys == tuple(trusted)
    spoilt = json.loads(both.data)
    spoilt["signatures"][1]["sig"] = spoilt["signatures"][0]["sig"]
    assert parse_signed(json.dumps(spoilt).encode(), trusted=[key.public], where="x").keys == (key.public,)
    refused("verdict-signature-wrong", spoilt, [key.public, stranger.public], stranger.public.id)
    refused("verdict-signature-wrong", spoilt, [stranger.public])


def test_accepting_twice_signs_once(signed, key, stranger):
    once = parse_signed(signed, trusted=[key.public], where="x").accepted_by(stranger)
    assert once.accepted_by(stranger).data == once.data
    assert once.accepted_by(key).data == once.data


def test_an_unsigned_verdict_is_refused(envelope, report, verdict_of, key):
    content = payload_of(envelope)["predicate"]["envbuild"]
    refused("verdict-not-signed", content, [key.public], "has no signature", "envbuild smoke")
    refused("verdict-not-signed", {**envelope, "signatures": []}, [key.public])


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -3])
def test_a_truncated_file_is_refused(signed, key, keep):
    refused(
        "bad-verdict", signed[: int(len(signed) * keep) if isinstance(keep, float) else keep], [key.public]
    )


def test_a_truncated_payload_is_refused(envelope, key):
    refused("verdict-signature-wrong", {**envelope, "payload": envelope["payload"][:-400]}, [key.public])
    refused("bad-verdict", {**envelope, "payload": envelope["payload"][:-3]}, [key.public], "base64")


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"payload": "\xff"}',
        b"[" * 100_000,
        b'{"payload": 1}',
        b'{"payload": "", "payloadType": "x"}',
    ],
)
def test_what_is_no_envelope_is_refused(data, key):
    refused("bad-verdict", data, [key.public])


def test_another_payload_type_is_refused(envelope, key):
    refused("bad-verdict", {**envelope, "payloadType": "application/json"}, [key.public], PAYLOAD_TYPE)


def test_both_alphabets_of_base64_are_read(report, verdict_of, key):
    """DSSE asks readers for it. The text is chosen so that its base64 has a slash."""
    report["why"] = "???>>>~~~" * 9
    envelope = json.loads(sign_verdict(verdict_of(report), key))
    raw = base64.b64decode(envelope["payload"])
    urlsafe = {**envelope, "payload": base64.urlsafe_b64encode(raw).decode()}
    assert urlsafe["payload"] != envelope["payload"]
    assert (
        parse_signed(json.dumps(urlsafe).encode(), trusted=[key.public], where="x").verdict.why
        == report["why"]
    )


# content that was signed and is no verdict all the same


def test_another_statement_is_refused(envelope, key):
    statement = payload_of(envelope)
    other = {**statement, "predicateType": "https://slsa.dev/provenance/v1"}
    refused("bad-verdict", signed_content(other, key), [key.public], "https://slsa.dev/provenance/v1")
    refused("bad-verdict", signed_content({**statement, "_type": "x"}, key), [key.public], "Statement/v1")
    refused(
        "bad-verdict", signed_content({**statement, "predicate": {"result": "PASSED"}}, key), [key.public]
    )
    refused("bad-verdict", signed_content({**statement, "predicate": 1}, key), [key.public])
    for data in (b"", b"null", b"[1]", b"{", b"[" * 100_000):
        refused("bad-verdict", signed_content(data, key), [key.public])


@pytest.mark.parametrize(
    ("change", "id", "said"),
    [
        (lambda v: v.update(kind="other"), "bad-verdict", "kind"),
        (lambda v: v.update(format=1), "bad-verdict", "format"),
        (lambda v: v["subject"].update(extra=1), "bad-verdict", "extra"),
        (lambda v: v.pop("lock"), "bad-verdict", "lock"),
        (lambda v: v["checks"][3].update(status="failed"), "verdict-contradicts-itself", "failed"),
        (
            lambda v: v["expectations"]["gpus"].update(wanted=4),
            "verdict-contradicts-itself",
            "2 GPUs where 4",
        ),
        (lambda v: v["subject"].update(ref="other:v1"), "verdict-contradicts-itself", "something else"),
        (lambda v: v["expectations"].update(cuda="1.0"), "verdict-contradicts-itself", "something else"),
    ],
)
def test_a_signed_verdict_that_cannot_be_is_refused(envelope, key, change, id, said):
    """By an older or a faulty program: the signature alone is not enough."""
    statement = payload_of(envelope)
    change(statement["predicate"]["envbuild"])
    refused(id, signed_content(statement, key), [key.public], said)


def test_a_statement_that_claims_more_than_its_verdict_is_refused(report, verdict_of, key):
    report["checks"][0]["status"] = "failed"
    report["result"] = "failed"
    statement = statement_of(verdict_of(report))
    statement["predicate"]["result"] = "PASSED"
    refused("verdict-contradicts-itself", signed_content(statement, key), [key.public])


# files


def test_a_file_that_is_not_there_or_endless_is_refused(tmp_path, key):
    for path, id in ((tmp_path / "none.json", "no-verdict"), (tmp_path, "no-verdict")):
        with pytest.raises(EnvbuildError) as caught:
            read_verdict(path, trusted=[key.public])
        assert (caught.value.id, caught.value.exit, caught.value.where) == (id, Exit.GATE, str(path))
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    with pytest.raises(EnvbuildError) as caught:
        read_verdict(endless, trusted=[key.public])
    assert (caught.value.id, caught.value.exit) == ("bad-verdict", Exit.GATE)
