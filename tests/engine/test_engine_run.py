"""The same questions to every engine: what a container sees and what it leaves behind."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needed import need
from smallimage import make_wheel

from envbuild.engine import Engine, ImageRef, Mount, RunCommand, Streams, detect
from envbuild.engine.docker import Docker
from envbuild.engine.oci import OciRuntime
from envbuild.engine.roots import Roots
from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.estargz import TRACES
from envbuild.layers.files import whiteout, write_files_layer
from envbuild.layers.format import SITE
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store

Make = Callable[..., ImageRef]
CALLER = {
    "NCCL_P2P_DISABLE": "1",
    "TORCH_NCCL_BLOCKING_WAIT": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}
ENGINES = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("crun"),
    pytest.param("runc"),
    pytest.param("sandbox"),
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, store: Store) -> Iterator[Engine]:
    environ = {**os.environ, **CALLER, "SECRET_OF_THE_CALLER": "1"}
    if request.param == "docker":
        request.getfixturevalue("docker_engine")  # skips only where the caller says so
        yield Docker.connect(environ)
        return
    if request.param == "sandbox":
        yield detect("sandbox", store, environ, jobs=2)[0]
        return
    program = Path(need(request.param))
    yield OciRuntime(program, Roots(store=store, sandbox=Sandbox.detect(), jobs=2), environ)


@pytest.fixture
def run(engine: Engine, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Loads the image, runs the command and gives exit status, stdout and stderr."""

    def call(image: ImageRef, *argv: str, stdin: bytes = b"", **fields: object) -> tuple[int, str, str]:
        engine.load(image, SilentProgress())
        out, err, given = tmp_path / "out", tmp_path / "err", tmp_path / "in"
        given.write_bytes(stdin)
        command = RunCommand(argv=argv, **{"network": False, **fields})
        with given.open("rb") as i, out.open("wb") as o, err.open("wb") as e:
            status = engine.run(
                image, command, Streams(stdin=i.fileno(), stdout=o.fileno(), stderr=e.fileno())
            )
        return status, out.read_text(), err.read_text()

    return call


Run = Callable[..., tuple[int, str, str]]


def test_streams_and_status(run: Run, make_image: Make) -> None:
    assert run(make_image(), "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


def test_stdin_reaches_the_command_only_when_asked(run: Run, make_image: Make) -> None:
    image = make_image()
    assert run(image, "sort", stdin=b"b\na\n", interactive=True)[1] == "a\nb\n"
    assert run(image, "cat", stdin=b"secret")[1] == ""


def test_large_output_arrives_whole(run: Run, make_image: Make) -> None:
    status, out, _ = run(make_image(), "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert (status, len(out), set(out)) == (0, 3_000_000, {"x"})


def test_entrypoint_and_cmd_of_the_image(run: Run, make_image: Make) -> None:
    image = make_image(entrypoint=("echo", "entry"), cmd=("cmd",))
    assert run(image)[1] == "entry cmd\n"
    assert run(image, "given")[1] == "entry given\n"
    assert run(image, "echo", "bare", entrypoint=False)[1] == "bare\n"


def test_environment_of_image_caller_and_command(run: Run, make_image: Make, engine: Engine) -> None:
    image = make_image(env={"NCCL_P2P_DISABLE": "0", "NCCL_CUMEM_HOST_ENABLE": "0"})
    env = dict(
        line.split("=", 1) for line in run(image, "env", env={"OWN": "1", "FROM_IMAGE": "no"})[1].splitlines()
    )
    assert {name: env[name] for name in CALLER} == CALLER == dict(engine.passes)
    assert env["NCCL_CUMEM_HOST_ENABLE"] == "0"
    assert (env["OWN"], env["FROM_IMAGE"], env["HOME"]) == ("1", "no", "/root")
    assert "SECRET_OF_THE_CALLER" not in env


def test_the_commands_variable_wins_over_the_callers(run: Run, make_image: Make) -> None:
    assert run(make_image(), "sh", "-c", "echo $NCCL_P2P_DISABLE", env={"NCCL_P2P_DISABLE": "7"})[1] == "7\n"


def test_working_directory(run: Run, make_image: Make) -> None:
    image = make_image()
    assert run(image, "pwd")[1] == "/work\n"
    assert run(image, "pwd", workdir="/etc")[1] == "/etc\n"


def test_users(run: Run, make_image: Make) -> None:
    image = make_image(user="worker")
    who = ("sh", "-c", "id -u; id -g; echo $HOME")
    assert run(image, *who)[1] == "1000\n1000\n/home/worker\n"
    assert run(image, *who, user="0:0")[1] == "0\n0\n/root\n"
    assert run(image, "sh", "-c", "id -u; id -g", user="1234:77")[1] == "1234\n77\n"


def test_shared_memory_has_the_size_asked_for(run: Run, make_image: Make) -> None:
    status, out, _ = run(
        make_image(), "sh", "-c", "df -k /dev/shm | tail -n 1 || df -k /dev/shm", shm_size=300 << 20
    )
    assert str(300 << 10) in out, (status, out)


def test_memory_may_be_locked(run: Run, make_image: Make) -> None:
    # Root may raise the limit, unless it was taken the capability; then the container gets what there is.
    highest = subprocess.run(
        ["sh", "-c", "ulimit -l unlimited 2>/dev/null; ulimit -l $(ulimit -H -l); ulimit -l"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert run(make_image(), "sh", "-c", "ulimit -l")[1] == highest


def test_no_network_leaves_loopback_only(run: Run, make_image: Make) -> None:
    status, out, err = run(make_image(), "sh", "-c", "ip -o link; ip -o addr show lo")
    devices = {line.split(": ")[1].split("@")[0] for line in out.splitlines() if ": <" in line}
    # The kernel makes tunnel devices in every new network namespace where their modules are loaded; all are down.
    up = {line.split(": ")[1].split("@")[0] for line in out.splitlines() if ": <" in line and ",UP" in line}
    assert "lo" in devices, (status, out, err)
    assert up == {"lo"}
    assert "127.0.0.1" in out


def test_the_containers_own_name_resolves(run: Run, make_image: Make, engine: Engine) -> None:
    _status, out, err = run(make_image(), "sh", "-c", "cat /etc/hosts; echo name $(hostname)")
    name = out.rsplit("name ", 1)[1].strip()
    if engine.name != "docker":  # Docker leaves a container without network without an address for its name
        assert name == "envbuild", err
        assert any(name in line.split() for line in out.splitlines() if line.startswith("127.0.0.1"))


def test_network_when_asked(run: Run, make_image: Make) -> None:
    out = run(make_image(), "sh", "-c", "ip -o addr; cat /etc/resolv.conf", network=True)[1]
    assert [line for line in out.splitlines() if " inet " in line and "127.0.0.1" not in line], out


def test_mounts(run: Run, make_image: Make, tmp_path: Path) -> None:
    shared, one = tmp_path / "shared", tmp_path / "one.txt"
    shared.mkdir()
    shared.chmod(0o777)
    one.write_text("one\n")
    mounts = (
        Mount(source=shared, target="/data", read_only=False),
        Mount(source=one, target="/opt/suite/one.txt"),
    )
    status, out, err = run(
        make_image(),
        "sh",
        "-c",
        "cat /opt/suite/one.txt; echo new > /data/file; echo x > /opt/suite/one.txt",
        mounts=mounts,
    )
    assert status != 0, "a read-only mount was written"
    assert out == "one\n", err
    assert (shared / "file").read_text() == "new\n"
    assert one.read_text() == "one\n"


def test_nothing_written_survives(run: Run, make_image: Make, store: Store) -> None:
    image = make_image()
    assert run(image, "sh", "-c", "echo changed > /etc/mark; touch /new")[0] == 0
    status, out, _ = run(image, "sh", "-c", "cat /etc/mark; ls /new")
    assert status != 0
    assert "changed" not in out
    assert list((store.root / "tmp").iterdir()) == []


def test_a_command_that_is_not_there(run: Run, make_image: Make) -> None:
    with pytest.raises(EnvbuildError) as caught:
        run(make_image(), "no-such-command")
    assert caught.value.exit is Exit.ENGINE
    assert "no-such-command" in caught.value.message


def test_a_user_that_is_not_there(run: Run, make_image: Make) -> None:
    with pytest.raises(EnvbuildError) as caught:
        run(make_image(), "true", user="nobody-here")
    assert "nobody-here" in caught.value.message


def test_time_is_up(run: Run, make_image: Make) -> None:
    with pytest.raises(EnvbuildError) as caught:
        run(make_image(), "sleep", "4321", timeout=2.0)
    assert caught.value.id == "container-timeout"
    assert "sleep\x004321" not in "".join(
        path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    )


def test_an_image_that_was_not_loaded(engine: Engine, make_image: Make) -> None:
    with pytest.raises(EnvbuildError) as caught:
        engine.run(make_image(), RunCommand(argv=("true",)))
    assert caught.value.id == "image-not-loaded"
    with pytest.raises(EnvbuildError) as caught:
        engine.tag(make_image(), ["x:y"])
    assert caught.value.id == "image-not-loaded"


def test_has_load_has(engine: Engine, make_image: Make) -> None:
    image = make_image()
    assert not engine.has(image)
    engine.load(image, SilentProgress())
    assert engine.has(image)
    engine.load(image, SilentProgress())


def test_gpus_where_there_are_none(run: Run, make_image: Make) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has GPUs: tests/engine/test_gpus.py asks for them")
    with pytest.raises(EnvbuildError) as caught:
        run(make_image(), "true", gpus="all")
    assert caught.value.exit is Exit.ENGINE
    assert "gpu" in (caught.value.message + caught.value.hint).lower()


def test_a_terminal(engine: Engine, make_image: Make) -> None:
    image = make_image()
    engine.load(image, SilentProgress())
    ours, theirs = pty.openpty()
    try:
        typed = b"echo [$((40 + 2))]; [ -t 0 ] && [ -t 1 ] && echo terminal; exit 5\n"
        os.write(ours, typed)
        status = engine.run(
            image,
            RunCommand(argv=("sh",), interactive=True, tty=True, network=False),
            Streams(stdin=theirs, stdout=theirs, stderr=theirs),
        )
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert status == 5, shown
    assert "[42]" in shown
    assert "\nterminal" in shown


def test_the_form_of_wheel_layers_does_not_show(
    run: Run, make_image: Make, store: Store, tmp_path: Path
) -> None:
    file, data = make_wheel("demo", "1.0")
    (tmp_path / file).write_bytes(data)
    plan = plan_wheel(tmp_path / file, file=file, sha256="0" * 64)
    layer = write_wheel_layer("demo", [plan], store.layout, SilentProgress())
    shown = make_image(layer)
    hidden = make_image(
        layer, write_files_layer("programs", [whiteout(path) for path in TRACES], store.layout)
    )
    status, out, err = run(shown, "ls", "-A", "/")
    assert set(TRACES) <= set(out.split()), err
    status, out, err = run(hidden, "sh", "-c", f"ls -A /; grep -c . /{SITE}/demo.py")
    assert (status, out.splitlines()[-1]) == (0, "3"), err
    assert not [name for name in out.split() if "stargz" in name or "prefetch" in name or ".wh." in name]
