"""What goes wrong when Docker builds: one error that names the cause and what to do, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clirun import ROOT
from dockerstandin import DOCKER, docker, docker_fails
from smalldocker import CANDIDATE, NAME, REF, Small

from envbuild.engine.build_display import Seen
from envbuild.engine.build_errors import failure
from envbuild.engine.build_events import plain_events, raw_events
from envbuild.engine.buildx import Buildx, Order
from envbuild.errors import EnvbuildError
from envbuild.progress import SilentProgress

pytestmark = [pytest.mark.docker, pytest.mark.network]
DIGEST = "sha256:" + "5" * 64
BY_DOCKER = ("--builder", "docker", "--base", "nvidia")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--builder", "docker"), "--base nvidia"),
        (("--builder", "docker", "--base", f"other/image@{DIGEST}"), "--build-arg BASE=IMAGE"),
        (("--base", "nvidia"), "--builder docker --base nvidia"),
        (("--builder", "oci", "--base", "nvidia"), "--builder docker --base nvidia"),
        (("--build-arg", "BASE=a:1"), "--builder docker --base nvidia"),
        (("--network", "none"), "--builder docker --base nvidia"),
        (("--no-cache",), "--builder docker --base nvidia"),
        ((*BY_DOCKER, "--verify"), f"envbuild image {REF} --verify"),
        ((*BY_DOCKER, "--no-load"), "leave out --no-load"),
        ((*BY_DOCKER, "--engine", "oci"), "leave out --engine"),
    ],
)
def test_options_that_contradict_each_other(small_docker: Small, options: tuple[str, ...], said: str) -> None:
    done = small_docker.cli.fails(2, "options-contradict", "image", REF, *options, *small_docker.places)
    assert said in done.err.split(" hint: ")[1]


@pytest.mark.parametrize(
    ("text", "id", "said"),
    [
        ("BASE", "bad-build-arg", "is not NAME=IMAGE"),
        ("BASE=", "bad-build-arg", "is not NAME=IMAGE"),
        ("CUDA=12", "unknown-build-arg", "BUILD_BASE, BASE, MICROMAMBA"),
        ("APT_SNAPSHOT", "bad-build-arg", "is not APT_SNAPSHOT=YYYYMMDDTHHMMSSZ"),
        ("APT_SNAPSHOT=2026-11-20", "bad-build-arg", "is not APT_SNAPSHOT=YYYYMMDDTHHMMSSZ"),
    ],
)
def test_build_arguments_that_are_none(small_docker: Small, text: str, id: str, said: str) -> None:
    arguments = ["image", REF, *BY_DOCKER, "--build-arg", text, *small_docker.places]
    assert said in " ".join(small_docker.cli.fails(2, id, *arguments).err.split())


def test_a_recipe_that_makes_no_image(small_docker: Small) -> None:
    place = small_docker.cli.folder / "more" / NAME / "v2"
    place.mkdir(parents=True)
    text = (small_docker.recipes / NAME / "v1/recipe.toml").read_text()
    (place / "recipe.toml").write_text('makes = ["environment"]\n' + text)
    done = small_docker.cli("image", f"{NAME}:v2", *BY_DOCKER, "--recipes", str(place.parents[1]))
    assert done.code == 2, done
    assert f"envbuild env create {NAME}:v2" in done.err


def test_a_step_that_fails_is_told_with_its_last_lines_and_the_log(small_docker: Small) -> None:
    """A base that lacks a compiler, and apt to get one with."""
    options = small_docker.bases.options(BUILD_BASE=f"{NAME}-bare:1")
    arguments = ["image", REF, *BY_DOCKER, *options, "--network", "none", *small_docker.places]
    done = small_docker.cli.fails(7, "build-step-failed", *arguments)
    message = done.err.split("error[")[1]
    assert "RUN" in message
    assert "apt-get install" in message
    assert "  | /bin/bash: line 1: apt-get: command not found\n" in message
    assert 3 < len(message.splitlines()) < 30
    log = Path(message.split("the whole log is in ")[1].split(";")[0])
    assert log.read_text().count("\n") > len(message.splitlines())


def test_a_base_whose_registry_cannot_be_reached(small_docker: Small) -> None:
    """The image is named with its digest and its argument, before anything is sent or run."""
    base = f"127.0.0.1:9/nvidia/cuda:12.6.3-base@{DIGEST}"
    before = _log(small_docker)
    arguments = ["image", REF, *BY_DOCKER, *small_docker.bases.options(BASE=base), *small_docker.places]
    done = small_docker.cli.fails(4, "base-unreachable", *arguments)
    assert base in done.err
    assert "   at: --build-arg BASE\n" in done.err
    assert f"docker pull {base}" in done.err
    assert "--build-arg BASE=MIRROR/cuda:12.6.3-base@sha256:5" in done.err
    assert "[build" not in done.err
    assert _log(small_docker) != before


def _log(small: Small) -> str:
    path = small.store / "logs" / f"docker-build-{NAME}-v1-nvidia.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("reason", "id"),
    [
        ("docker.io/nvidia/cuda:12.6.3-base: not found", "base-not-found"),
        (
            "unexpected status from HEAD request to https://mirror/v2/x/manifests/y: 403 Forbidden",
            "base-refused",
        ),
        (
            "pull access denied, repository does not exist or may require authorization: server message: "
            "insufficient_scope: authorization failed",
            "base-refused",
        ),
        ('failed to do request: Head "https://mirror/v2/": dial tcp: i/o timeout', "base-unreachable"),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "base-unreachable",
        ),
    ],
)
def test_a_base_that_its_registry_does_not_give(tmp_path: Path, reason: str, id: str) -> None:
    """In the words of BuildKit and of registries; which one it is tells what to do."""
    base = f"nvidia/cuda:12.6.3-base@{DIGEST}"
    step = Seen(name=f"[internal] load metadata for docker.io/{base}", error=reason)
    images = {"BUILD_BASE": f"nvidia/cuda:12.6.3-devel@{DIGEST}", "BASE": base}
    error = failure(
        step, [f"ERROR: failed to solve: {base}: {reason}"], images=images, log=tmp_path, name="small:v1"
    )
    assert (error.id, int(error.exit), error.where) == (id, 4, "--build-arg BASE")
    assert base in error.message
    assert reason in error.message
    assert "--build-arg BASE=nvidia/cuda:12.6.3-base" in error.hint
    assert ("docker login" in error.hint) is (id == "base-refused")


def test_the_packages_of_a_channel_that_cannot_be_reached(small_docker: Small, tmp_path: Path) -> None:
    arguments = [
        "image",
        REF,
        *BY_DOCKER,
        *small_docker.bases.options(),
        "--recipes",
        str(small_docker.recipes),
    ]
    environ = {
        "ENVBUILD_CONDA_CHANNELS": "small=http://127.0.0.1:9/small",
        "ENVBUILD_ARTIFACT_MIRROR": str(tmp_path),
    }
    done = small_docker.cli(*arguments, "--store", str(tmp_path / "store"), env=environ)
    assert done.code == 4, done
    assert done.err.count("error[") == 1


def test_no_docker_at_all(small_docker: Small, tmp_path: Path) -> None:
    done = small_docker.cli.fails(7, "no-docker", *small_docker.arguments(), env={"PATH": str(tmp_path)})
    assert "docker-buildx" in done.err


def test_docker_without_buildx(small_docker: Small, tmp_path: Path) -> None:
    """A client without the plugin says so in these words."""
    program = tmp_path / "docker"
    program.write_text(
        f"""#!/bin/sh
if [ "$1" = buildx ]; then echo "docker: 'buildx' is not a docker command." >&2; exit 1; fi
exec {DOCKER} "$@"
"""
    )
    program.chmod(0o755)
    done = small_docker.cli.fails(7, "no-buildx", *small_docker.arguments(), env={"PATH": str(tmp_path)})
    assert "'buildx' is not a docker command" in done.err
    assert "docker-buildx" in done.err.split(" hint: ")[1]


def test_a_stray_client_before_the_one_that_builds(small_docker: Small, tmp_path: Path) -> None:
    """The first `docker` on the PATH that has the plugin is taken."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    found = Buildx.find({**small_docker.cli.env, "PATH": f"{tmp_path}:{Path(DOCKER).parent}"})
    assert found.command[0] == DOCKER


def test_an_engine_that_does_not_run(small_docker: Small) -> None:
    environ = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = small_docker.cli.fails(7, "docker-not-running", *small_docker.arguments(), env=environ)
    assert "ci/docker-engine.sh" in done.err
    assert small_docker.cli("smoke", f"{REF}-nvidia", *small_docker.places, env=environ).code == 7


def test_an_image_that_was_never_built(small_docker: Small) -> None:
    names = [CANDIDATE, f"{REF}-nvidia"]
    kept = [name for name in names if docker("images", "--quiet", name).strip()]
    for name in kept:
        docker("tag", name, f"{NAME}-kept:{names.index(name)}")
        docker("rmi", name)
    try:
        done = small_docker.cli.fails(3, "image-not-built", "smoke", f"{REF}-nvidia", *small_docker.places)
        assert f"`envbuild image {REF} --builder docker --base nvidia`" in done.err
    finally:
        for name in kept:
            docker("tag", f"{NAME}-kept:{names.index(name)}", name)


def test_ctrl_c_stops_the_build_and_nothing_goes_on(small_docker: Small, tmp_path: Path) -> None:
    """The first step of a base that never ends; afterwards no process of it is there, and no image."""
    seconds = f"86{os.getpid()}"
    name = f"{NAME}-endless:1"
    (tmp_path / "dpkg-query").write_text(f"#!/bin/sh\necho waiting\nexec sleep {seconds}\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {small_docker.bases.build}\nCOPY dpkg-query /usr/bin/dpkg-query\n"
    )
    docker("buildx", "build", "--quiet", "--tag", name, str(tmp_path))
    recipe = [
        "--builder",
        "docker",
        "--base",
        "nvidia",
        *small_docker.bases.options(BUILD_BASE=name, BASE=name),
    ]
    before = docker("images", "--quiet", "--no-trunc", CANDIDATE)
    process = subprocess.Popen(
        small_docker.cli.argv("image", REF, *recipe, *small_docker.places),
        env=dict(small_docker.cli.env), cwd=small_docker.cli.folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _until(lambda: bool(_running(seconds)))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped; running the same command again goes on from here" in err
    assert "Traceback" not in err
    _until(lambda: not _running(seconds))
    assert docker("images", "--quiet", "--no-trunc", CANDIDATE) == before
    assert not list((small_docker.store / "tmp").glob("scratch-docker-build*"))


def _running(seconds: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            found.append(path.parent.name)
    return found


def _until(holds: object, limit: float = 60.0) -> None:
    assert callable(holds)
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def test_an_older_buildx_s_plain_progress_is_read_too(small_docker: Small, tmp_path: Path) -> None:
    """As buildx before 0.13 writes it, which knows no rawjson: steps, output, errors."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {small_docker.bases.ship}\nRUN echo first; echo second >&2\nRUN echo third; exit 3\n"
    )
    now = Buildx.find(small_docker.cli.env)
    old = Buildx(
        command=now.command, version="0.11.2", driver=now.driver, engine=now.engine, rewrites=False,
        environ=now.environ,
    )  # fmt: skip
    order = Order(name=f"{NAME}-plain:1", folder=tmp_path, dockerfile="Dockerfile", images={}, fresh=True)
    log = tmp_path / "log"
    with pytest.raises(EnvbuildError) as caught:
        old.build(order, log=log, progress=SilentProgress())
    assert (caught.value.id, int(caught.value.exit)) == ("build-step-failed", 7)
    assert "RUN echo third; exit 3\n  | third" in caught.value.message
    assert "first" in log.read_text()
    docker_fails("inspect", order.name)


def test_an_engine_without_room(tmp_path: Path) -> None:
    step = Seen(name="[build 7/9] RUN install", error="write /var/lib/docker/x: no space left on device")
    error = failure(step, [], images={}, log=tmp_path / "log", name="small:v1")
    assert (error.id, int(error.exit)) == ("engine-full", 7)
    assert "docker system df" in error.hint
    step = Seen(name="[build 7/9] RUN install", error="process did not complete successfully: exit code: 1")
    step.lines.append("OSError: [Errno 28] No space left on device")
    assert failure(step, [], images={}, log=tmp_path / "log", name="small:v1").id == "engine-full"


def test_a_compiler_that_was_killed_for_its_memory(tmp_path: Path) -> None:
    step = Seen(
        name="[build 8/9] RUN nvcc", error='process "nvcc" did not complete successfully: exit code: 137'
    )
    error = failure(step, [], images={}, log=tmp_path / "log", name="small:v1")
    assert "MAX_JOBS" in error.hint
    assert "memory" in error.message


@pytest.mark.parametrize("read", [raw_events, plain_events])
def test_what_a_builder_says_in_another_form_ends_in_no_traceback(read: object) -> None:
    assert callable(read)
    lines = [
        "{",
        "no json",
        "}",
        '{"vertexes": 3}',
        '{"logs": [{"data": null}]}',
        "#",
        "#1",
        "\0",
        "{",
        '"cut": ',
    ]
    assert [event for event in read(lines) if event is not None]


def test_the_default_bases_of_the_committed_recipes_are_pinned_by_digest(small_docker: Small) -> None:
    """What a build without --build-arg asks for."""
    from envbuild.render.context import base_arguments

    files = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
    assert len(files) == 6
    for file in files:
        images = base_arguments(file.read_text())
        assert set(images) == {"BUILD_BASE", "BASE", "MICROMAMBA"}
        for image in images.values():
            assert image.partition("@sha256:")[2].isalnum(), image
