"""What ``--json`` prints is what docs/reference/json.md says; with the small real image, from build to tag."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from clirun import ROOT, Cli
from smallimage import REF, SmallWorld
from verdictmaker import own_key, signed, verdict_about

from envbuild.gate import SigningKey
from envbuild.lock import Lock, read_lock

PAGE = (ROOT / "docs/reference/json.md").read_text()


def documented(section: str) -> set[str]:
    """The keys in the tables of a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", text, re.MULTILINE)
    keys = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    assert keys, section
    return keys


def keys_of(value: dict[str, Any], *open_: str, prefix: str = "") -> set[str]:
    """The keys of a document, as the page writes them; what is under ``open_`` has free keys."""
    found = set()
    for key, inner in value.items():
        found.add(prefix + key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for item in inner:
                found |= keys_of(item, *open_, prefix=f"{prefix}{key}[].")
        elif isinstance(inner, dict) and key not in open_:
            found |= keys_of(inner, *open_, prefix=f"{prefix}{key}.")
    return found


def test_errors(cli: Cli) -> None:
    assert keys_of(cli("image", "no:such", "--json").value) - {"error"} == documented("Errors")


def test_list(cli: Cli) -> None:
    [row] = cli("list", "--json").value
    assert keys_of(row) == documented("envbuild list")
    assert row["image"] == read_lock(Path(row["path"]).with_name("lock.json")).image.digest


def test_render(cli: Cli) -> None:
    done = cli("render", "--output", "out", "--json")
    assert keys_of(done.value) == documented("envbuild render")
    assert cli("render", "--output", "out", "--json").value == {"changed": []}
    assert cli("render", "--output", "out", "--check", "--json").value == {
        "agrees": True, "refs": ["pytorch-cuda:v2.7"]
    }  # fmt: skip


def test_gc(cli: Cli) -> None:
    assert keys_of(cli("gc", "--json").value) == documented("envbuild gc")


def test_every_example_is_json() -> None:
    examples = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        json.loads(example)


@pytest.mark.network
def test_image_names_its_digests_in_the_lock(on_small: Cli, small: SmallWorld) -> None:
    done = on_small("image", REF, "--no-load", "--json", "--output", "small.tar")
    assert done.code == 0, done
    value = done.value
    assert keys_of(value, "seconds", "conditions") == {
        key for key in documented("envbuild image") if not key.startswith(("verdict.", "verify.", "docker."))
    }
    assert value["digest"] == small.built.image.digest
    assert value["config"] == small.built.image.config.digest
    assert value["tags"] == ["small:v1-candidate"]
    assert (value["candidate"], value["verdict"], value["engine"], value["bytes_fetched"]) == (
        True,
        None,
        None,
        0,
    )
    assert [layer["digest"] for layer in value["layers"]] == [
        layer.digest for layer in small.built.image.layers
    ]
    assert not any(layer["made"] for layer in value["layers"])
    assert "small:v1-candidate" in small.store.layout.tags()
    assert (on_small.folder / "small.tar").stat().st_size > value["size"]
    lock = read_lock(on_small.folder / "small/small/v1/lock.json")
    assert lock.image == small.built.lock
    assert "small:v1-candidate is a candidate, not small:v1: this machine has" in done.err
    assert "envbuild promote small:v1 --verdict verdict.json" in done.err
    assert on_small("export", REF, "--format", "layers").value == [
        {key: layer[key] for key in layer if key != "made"} for layer in value["layers"]
    ]


@pytest.mark.network
def test_a_candidate_is_done_unless_a_verdict_is_required(on_small: Cli) -> None:
    quiet = on_small("image", REF, "--no-load", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.startswith("small:v1-candidate  sha256:")
    done = on_small("image", REF, "--no-load", "--quiet", "--require-verdict")
    assert done.code == 6
    assert "error[no-verdict]: small:v1 ends as a candidate" in done.err
    done = on_small("image", REF, "--no-load", "--quiet", "--require-verdict", "--json")
    assert done.code == 6
    assert done.value["error"]["id"] == "no-verdict"
    assert done.value["candidate"] is True
    assert done.err.count("error[no-verdict]") == 1


def built_lock(cli: Cli) -> Lock:
    """The small recipe's lock, once building has let it name the image's digests."""
    assert cli("image", REF, "--no-load").code == 0
    return read_lock(cli.folder / "small/small/v1/lock.json")


@pytest.mark.network
def test_promote_gives_the_tag_and_it_stays(on_small: Cli, small: SmallWorld) -> None:
    stranger = SigningKey(seed=bytes(32), where="the machine with GPUs")
    verdict = verdict_about(small.built.image, built_lock(on_small), REF, on_small.folder / "small")
    (on_small.folder / "verdict.json").write_bytes(signed(verdict, stranger))
    (on_small.folder / "pub.pem").write_text(stranger.public.pem)
    on_small.fails(6, "verdict-by-unknown-key", "promote", REF, "--verdict", "verdict.json")
    done = on_small("promote", REF, "--verdict", "verdict.json", "--key", "pub.pem", "--json")
    assert done.code == 0, done
    assert {key.partition(".")[0] for key in keys_of(done.value)} == documented("envbuild promote")
    assert done.value["tags"] == ["small:v1-candidate", "small:v1"]
    assert done.value["keys"] == [stranger.public.id]
    tags = small.store.layout.tags()
    assert {name: tag.digest for name, tag in tags.items()} == dict.fromkeys(
        done.value["tags"], done.value["digest"]
    )
    again = on_small("image", REF, "--no-load", "--json", "--require-verdict")
    assert again.code == 0, again
    assert again.value["candidate"] is False
    assert again.value["tags"] == ["small:v1-candidate", "small:v1"]
    shown = {key for key in keys_of(again.value, "seconds") if key.startswith("verdict.")}
    [kept] = (small.store.root / "verdicts").iterdir()
    own = own_key(on_small.folder / "home").public.id
    assert [each["keyid"] for each in json.loads(kept.read_bytes())["signatures"]] == [
        stranger.public.id,
        own,
    ]
    assert shown == {key for key in documented("envbuild image") if key.startswith("verdict.")}


@pytest.mark.network
@pytest.mark.parametrize("changes", [{"suite": "sha256:" + "d" * 64}, {"lock": "sha256:" + "d" * 64}])
def test_a_verdict_in_the_store_of_another_suite_or_lock_gives_no_tag(
    on_small: Cli, small: SmallWorld, changes: dict[str, str]
) -> None:
    """Where it is kept because --suite named its suite, too: a build asks its own suite's questions."""
    verdict = verdict_about(
        small.built.image, built_lock(on_small), REF, on_small.folder / "small", **changes
    )
    file = on_small.folder / "verdict.json"
    file.write_bytes(signed(verdict, own_key(on_small.folder / "home")))
    [(what, digest)] = changes.items()
    on_small.fails(6, f"verdict-of-another-{what}", "promote", REF, "--verdict", str(file))
    if what == "suite":
        named = on_small("promote", REF, "--verdict", str(file), "--suite", digest, "--json")
        assert (named.code, named.value["tags"]) == (0, ["small:v1-candidate", "small:v1"])
    else:
        kept = small.store.root / "verdicts" / f"{small.built.image.digest.removeprefix('sha256:')}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(file.read_bytes())
    done = on_small("image", REF, "--no-load", "--json")
    assert (done.code, done.value["candidate"], done.value["verdict"]) == (0, True, None)
    assert "the verdict in the store is not used" in done.err
    assert digest in done.err


@pytest.mark.network
@pytest.mark.parametrize("signer", [None, SigningKey(seed=bytes(32), where="a stranger")])
def test_a_verdict_in_the_store_that_nobody_here_signed_gives_no_tag(
    on_small: Cli, small: SmallWorld, signer: SigningKey | None
) -> None:
    """Neither does it stop the build."""
    verdict = verdict_about(small.built.image, small.lock, REF, on_small.folder / "small")
    file = small.store.root / "verdicts" / f"{small.built.image.digest.removeprefix('sha256:')}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(signed(verdict, signer) if signer else json.dumps(verdict).encode())
    done = on_small("image", REF, "--no-load", "--json")
    assert (done.code, done.value["candidate"], done.value["verdict"]) == (0, True, None)
    assert "the verdict in the store is not used" in done.err


@pytest.mark.network
def test_verify_is_documented(on_small: Cli, small: SmallWorld) -> None:
    done = on_small("image", REF, "--no-load", "--json", "--verify")
    assert done.code == 0, done
    shown = {key for key in keys_of(done.value, "seconds", "conditions") if key.startswith("verify.")}
    assert shown == {key for key in documented("envbuild image") if key.startswith("verify.")}
    assert done.value["verify"]["holds"] is True
    assert done.value["verify"]["digest"] == small.built.image.digest


@pytest.mark.network
def test_run_passes_output_and_exit_status_on(on_small: Cli) -> None:
    arguments = ("run", "--engine", "sandbox", "-e", "A=b c", "--quiet", REF)
    done = on_small(*arguments, "python", "-c", "import demo, os; print(demo.VERSION, os.environ['A'])")
    assert (done.code, done.out, done.err) == (0, "1.0 b c\n", "")
    assert on_small(*arguments, "--", "sh", "-c", "exit 41").code == 41
    assert on_small(*arguments, "sh", "-c", "kill -9 $$").code == 137


@pytest.mark.network
def test_mounts_of_run(on_small: Cli) -> None:
    (on_small.folder / "data").mkdir()
    (on_small.folder / "data/in").write_text("in\n")
    call = ("run", "--engine", "sandbox", "--no-network", "--quiet")
    done = on_small(*call, "-v", "data:/data", REF, "sh", "-ec", "cat /data/in; echo out >/data/out")
    assert (done.code, done.out) == (0, "in\n"), done
    assert (on_small.folder / "data/out").read_text() == "out\n"
    done = on_small(*call, "-v", "data:/data:ro", REF, "sh", "-c", "echo out >/data/no")
    assert done.code != 0
    assert not (on_small.folder / "data/no").exists()
