"""A recipe's Dockerfile, built by Docker: what comes out, under which name, and what is not in it."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dockerstandin import docker, docker_fails, inspected, saved_files, saved_members
from smalldocker import CANDIDATE, NAME, PROXY, REF, SECRET, Built
from verdictmaker import own_key, signed, verdict_about

from envbuild.gate import Subject
from envbuild.image.locked import image_of
from envbuild.image.plan import inputs_digest
from envbuild.lock import read_lock

pytestmark = [pytest.mark.docker, pytest.mark.network]
TAG = f"{REF}-nvidia"


def test_it_ends_as_a_candidate_with_a_name_of_its_own(built: Built) -> None:
    value, told = built.value, inspected(CANDIDATE)
    assert (value["ref"], value["tags"], value["candidate"]) == (TAG, [CANDIDATE], True)
    assert value["builder"] == "docker"
    assert value["config"] == value["digest"] == told["Id"]
    assert value["size"] == told["Size"] > 50_000_000
    assert [layer["diff_id"] for layer in value["layers"]] == told["RootFS"]["Layers"]
    assert sum(layer["size"] for layer in value["layers"]) == value["size"]
    assert {"bases", "fetch", "build", "gate", "total"} == set(value["seconds"])
    assert value["docker"].keys() == {
        "images", "buildx", "driver", "rewrites_timestamps", "steps", "cached", "log",
    }  # fmt: skip
    assert value["docker"]["images"] == built.small.bases.values()
    assert value["verdict"] is None
    docker_fails("inspect", REF)
    docker_fails("inspect", TAG)


def test_on_a_machine_without_gpus_it_says_what_to_run_where(built: Built) -> None:
    assert f"{CANDIDATE} is a candidate, not {TAG}: this machine has no GPU" in built.progress
    assert f"envbuild smoke {TAG} --report verdict.json" in built.progress


def test_steps_are_shown_and_the_log_has_what_they_wrote(built: Built) -> None:
    assert "✓ [build" in built.progress
    assert "✓ exporting to image" in built.progress
    assert "[internal]" not in built.progress
    log = Path(built.value["docker"]["log"]).read_text()
    assert "Successfully installed" in log
    assert len(log) > 5 * len(built.progress)


def test_the_image_says_what_it_was_made_of(built: Built) -> None:
    told = inspected(CANDIDATE)
    lock = read_lock(built.small.recipes / NAME / "v1/lock.json")
    labels = told["Config"]["Labels"]
    assert labels["io.envbuild.inputs"] == inputs_digest(lock)
    assert labels["org.opencontainers.image.base.name"] == built.small.bases.ship
    assert labels["org.opencontainers.image.base.digest"] == ""
    assert told["Created"] == lock.created


def test_conda_s_python_runs_the_locked_packages_as_an_ordinary_user(built: Built) -> None:
    code = (
        "import os, sys, importlib.metadata as m, torch; "
        "print(sys.prefix, sys.base_prefix, os.getuid(), torch.version.cuda, m.version('nvidia-nccl-cu12'))"
    )
    out = docker("run", "--rm", "--network", "none", CANDIDATE, "python", "-c", code)
    assert out.split() == ["/opt/venv", "/opt/conda", "1000", "12.6", "2.26.2"]


def test_no_secret_is_in_any_layer_config_or_log(built: Built) -> None:
    """The build had a proxy's password and a bundle of certificates that steps could read."""
    seen = 0
    for name, data in saved_files(CANDIDATE):
        seen += 1
        assert SECRET.encode() not in data, name
        assert SECRET not in name
    assert seen > 1000
    assert SECRET not in json.dumps(inspected(CANDIDATE))
    assert SECRET not in docker("history", "--no-trunc", CANDIDATE)
    assert SECRET not in Path(built.value["docker"]["log"]).read_text()
    assert SECRET not in built.progress + json.dumps(built.value)


def test_the_secret_was_there_to_be_read(built: Built, tmp_path: Path) -> None:
    """What the last test looks for would be found if a step kept it."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {built.small.bases.ship}\nRUN --mount=type=secret,id=ca,target=/run/ca.crt cp /run/ca.crt /kept\n"
    )
    name = f"{NAME}-careless:1"
    docker(
        "buildx", "build", "-q", "--secret", f"id=ca,src={built.small.secret}", "--tag", name, str(tmp_path)
    )
    assert any(SECRET.encode() in data for _, data in saved_files(name))


def test_nothing_of_the_build_is_left_in_the_image(built: Built) -> None:
    names = {name.partition(":")[2] for name, _ in saved_files(CANDIDATE)}
    for left in ("opt/micromamba", "opt/build", "tmp/", "root/.cache", "run/artifacts/", "run/conda.txt"):
        assert not [name for name in names if name.startswith(left) and name != left], left
    assert "opt/conda/conda-meta/history" in names
    assert [name for name in names if name.endswith("torch.cpython-311.pyc")]


def test_a_second_build_runs_nothing_again(built: Built) -> None:
    done = built.small.build()
    assert done.code == 0, done
    assert done.value["config"] == built.value["config"]
    assert done.value["docker"]["cached"] > 10
    assert done.value["bytes_fetched"] == 0


def test_a_build_without_the_cache_gives_the_same_files(built: Built, request: pytest.FixtureRequest) -> None:
    """Byte for byte, with each file's time; folders' times are the build's on an engine that does not rewrite them."""
    before = saved_members(CANDIDATE)
    done = built.small.build("--no-cache")
    assert done.code == 0, done
    request.addfinalizer(lambda: docker("tag", str(built.value["config"]), CANDIDATE))
    assert done.value["docker"]["cached"] < 5
    assert (done.value["config"] == built.value["config"]) is done.value["docker"]["rewrites_timestamps"]
    after = saved_members(CANDIDATE)
    assert sum(map(len, before)) > 5000
    assert before == after


def test_an_archive_is_written_besides(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    done = built.small.build("--output", str(target))
    assert done.code == 0, done
    assert done.value["output"] == str(target)
    with tarfile.open(target) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert manifest[0]["RepoTags"] == [CANDIDATE]
    full = built.small.build("--output", "/dev/full")
    assert full.code == 7, full
    assert "error[disk-full]" in full.err


def test_the_suite_s_verdict_is_about_docker_s_image(built: Built) -> None:
    small = built.small
    report = small.cli.folder / "verdict.json"
    done = small.cli.quoting("smoke", TAG, "--report", str(report), "--json", *small.places)
    assert done.code == 6, done  # its torch is a stand-in, too: the suite sees that
    told = inspected(CANDIDATE)
    subject = {"ref": TAG, "manifest": told["Id"], "config": told["Id"], "diff_ids": told["RootFS"]["Layers"]}
    assert done.value["verdict"]["subject"] == subject
    assert done.value["verdict"]["expectations"]["ref"] == TAG
    assert done.value["verdict"]["result"] == "failed"
    other = small.cli("smoke", f"{CANDIDATE}@sha256:{'0' * 64}", *small.places)
    assert (other.code, "error[another-image]" in other.err) == (3, True), other


def test_a_pass_gives_the_nvidia_tag_and_never_the_recipe_s(
    built: Built, request: pytest.FixtureRequest
) -> None:
    small, identity = built.small, inspected(CANDIDATE)["Id"]
    request.addfinalizer(lambda: docker("rmi", TAG))
    request.addfinalizer((small.store / "verdicts" / f"{identity.removeprefix('sha256:')}.json").unlink)
    file = small.cli.folder / "pass.json"
    file.write_bytes(signed(_passing(built), own_key(small.cli.folder / "home")))
    done = small.cli("promote", TAG, "--verdict", str(file), "--json", *small.places)
    assert done.code == 0, done
    assert (done.value["tags"], done.value["digest"]) == ([CANDIDATE, TAG], identity)
    assert inspected(TAG)["Id"] == identity
    docker_fails("inspect", REF)
    again = small.build()
    assert (again.value["candidate"], again.value["tags"]) == (False, [CANDIDATE, TAG])


def test_a_verdict_about_another_image_gives_nothing(built: Built) -> None:
    small = built.small
    value = _passing(built)
    value["subject"]["config"] = f"sha256:{'1' * 64}"
    file = small.cli.folder / "other.json"
    file.write_bytes(signed(value, own_key(small.cli.folder / "home")))
    small.cli.fails(6, "verdict-about-another-image", "promote", TAG, "--verdict", str(file), *small.places)
    docker_fails("inspect", TAG)


def _passing(built: Built) -> dict[str, Any]:
    lock = read_lock(built.small.recipes / NAME / "v1/lock.json")
    value = verdict_about(None, lock, REF, built.small.recipes, subject=_subject(built))
    value["expectations"] |= {"ref": TAG}
    return value


def _subject(built: Built) -> dict[str, Any]:
    told = inspected(CANDIDATE)
    subject = Subject(
        ref=TAG, manifest=told["Id"], config=told["Id"], diff_ids=tuple(told["RootFS"]["Layers"])
    )
    value: dict[str, Any] = msgspec.to_builtins(subject)
    return value


def test_a_command_runs_in_it(built: Built) -> None:
    small = built.small
    done = small.cli("run", TAG, *small.places, "--", "python", "-c", "import torch; print(torch.VERSION)")
    assert (done.code, done.out) == (0, "2.7.1\n"), done
    done = small.cli("run", "--engine", "sandbox", TAG, *small.places, "--", "true")
    assert (done.code, "error[options-contradict]" in done.err) == (2, True), done


def test_another_lock_s_image_is_not_taken_for_this_one(built: Built, tmp_path: Path) -> None:
    small = built.small
    (tmp_path / "Dockerfile").write_text(f'FROM {CANDIDATE}\nLABEL io.envbuild.inputs="sha256:{"2" * 64}"\n')
    docker("buildx", "build", "--quiet", "--tag", CANDIDATE, str(tmp_path))
    try:
        small.cli.fails(3, "image-of-another-lock", "smoke", TAG, *small.places)
    finally:
        docker("tag", str(built.value["config"]), CANDIDATE)


def test_proxies_reach_steps_that_have_a_network(built: Built, tmp_path: Path) -> None:
    """As predefined arguments, which BuildKit keeps out of history and cache."""
    from envbuild.engine.buildx import Buildx, Order
    from envbuild.progress import SilentProgress

    (tmp_path / "Dockerfile").write_text(
        f'FROM {built.small.bases.ship}\nRUN [ "$https_proxy" = "{PROXY}" ] && [ "$NO_PROXY" = localhost ]\n'
    )
    environ = {**built.small.cli.env, "https_proxy": PROXY, "NO_PROXY": "localhost"}
    order = Order(name=f"{NAME}-proxied:1", folder=tmp_path, dockerfile="Dockerfile", images={})
    Buildx.find(environ).build(order, log=tmp_path / "log", progress=SilentProgress())
    assert SECRET not in subprocess.run(
        ["/usr/bin/docker", "history", "--no-trunc", order.name], capture_output=True, text=True, check=True
    ).stdout.replace(f'"{PROXY}"', "")


def test_docker_s_image_is_not_the_one_that_the_lock_names(built: Built) -> None:
    lock = read_lock(built.small.recipes / NAME / "v1/lock.json")
    assert image_of(lock) is None
    assert not list((built.small.store / "oci").glob(f"**/{built.value['config'].removeprefix('sha256:')}"))
