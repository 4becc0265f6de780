"""What a command sees, what it returns, and that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox

ENV = {"PATH": "/usr/bin"}


def output(sandbox: Sandbox, root: Path, script: str, tmp_path: Path, **fields: object) -> str:
    """stdout of a shell script that must end with 0."""
    command = Command(argv=("sh", "-ec", script), env=ENV, **fields)  # type: ignore[arg-type]
    with open(tmp_path / "stdout", "w+b") as stdout:
        assert sandbox.run(Rootfs(lowers=(root,)), command, stdout=stdout) == 0
        stdout.seek(0)
        return stdout.read().decode()


def processes(marker: str) -> list[int]:
    """Ids of the processes that have ``marker`` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(int(folder.name))
    return found


def wait_until_none(marker: str) -> None:
    deadline = time.monotonic() + 10
    while processes(marker):
        assert time.monotonic() < deadline, f"still there: {processes(marker)}"
        time.sleep(0.05)


def test_environment_is_exactly_what_is_given(sandbox, root, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    lines = set(output(sandbox, root, "exec env", tmp_path).split())
    assert lines - {"PWD=/", "OLDPWD=/", "_=/usr/bin/env"} == {"PATH=/usr/bin"}


def test_exit_status_and_signals(sandbox, root):
    for script, expected in (("exit 0", 0), ("exit 41", 41), ("kill -9 $$", 137), ("kill -15 $$", 143)):
        assert sandbox.run(Rootfs(lowers=(root,)), Command(argv=("sh", "-c", script), env=ENV)) == expected


def test_stdin_and_stdout_pass_through(sandbox, root, tmp_path):
    (tmp_path / "in").write_bytes(bytes(range(256)) * 5000)
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        assert (
            sandbox.run(Rootfs(lowers=(root,)), Command(argv=("cat",), env=ENV), stdin=stdin, stdout=stdout)
            == 0
        )
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_lowers_are_not_written_and_a_throwaway_upper_is_gone(sandbox, root, tmp_path):
    before = sorted(os.listdir(root))
    assert output(sandbox, root, "touch /new; rm /etc/passwd; ls /new", tmp_path) == "/new\n"
    assert sorted(os.listdir(root)) == before
    assert (root / "etc/passwd").exists()


def test_a_kept_upper_holds_what_was_written(sandbox, root, tmp_path):
    command = Command(argv=("sh", "-c", "umask; echo hi >/etc/new; chown 1000:1000 /etc/new"), env=ENV)
    upper = tmp_path / "upper"
    assert sandbox.run(Rootfs(lowers=(root,), upper=upper), command) == 0
    assert (upper / "etc/new").read_text() == "hi\n"
    sandbox.remove(upper)
    sandbox.remove(tmp_path / "upper.work")
    assert not upper.exists()
    assert not (tmp_path / "upper.work").exists()


def test_without_lowers_upper_is_the_root_itself(sandbox, root, tmp_path):
    import shutil

    shutil.copytree(root, tmp_path / "r", symlinks=True)
    assert sandbox.run(Rootfs(lowers=(), upper=tmp_path / "r"), Command(argv=("touch", "/x"), env=ENV)) == 0
    assert (tmp_path / "r/x").exists()
    assert not (tmp_path / "r.work").exists()


def test_sixty_lowers_with_long_paths(sandbox, root, tmp_path):
    lowers = [root]
    for number in range(60):
        lower = tmp_path / ("x" * 200) / f"{number}"
        lower.mkdir(parents=True)
        (lower / f"file{number}").write_text("")
        (lower / "who").write_text(str(number))
        lowers.append(lower)
    with open(tmp_path / "stdout", "w+b") as stdout:
        command = Command(argv=("sh", "-c", "ls -d /file* | sed -n '$='; cat /who"), env=ENV)
        assert sandbox.run(Rootfs(lowers=tuple(lowers)), command, stdout=stdout) == 0
    assert (tmp_path / "stdout").read_text() == "60\n59"


def test_no_network_but_a_loopback_that_is_up(sandbox, root, tmp_path):
    text = output(sandbox, root, "cat /proc/net/dev /proc/net/fib_trie", tmp_path)
    assert [line.split(":")[0].strip() for line in text.splitlines() if ":" in line and "|" not in line][
        :1
    ] == ["lo"]
    assert "127.0.0.1" in text  # the route is there only when the device is up
    assert "eth" not in text


def test_the_hosts_network_when_asked(sandbox, root, tmp_path):
    here = os.readlink("/proc/self/ns/net")
    script = "readlink /proc/self/ns/net"
    assert output(sandbox, root, script, tmp_path, network=True).strip() == here
    assert output(sandbox, root, script, tmp_path).strip() != here


def test_process_tree_hostname_and_mounts(sandbox, root, tmp_path):
    assert (
        output(sandbox, root, "echo $$; hostname; uname -n", tmp_path, hostname="fixed")
        == "2\nfixed\nfixed\n"
    )
    assert "sandbox-probe" not in output(sandbox, root, "cat /proc/mounts", tmp_path)
    assert output(sandbox, root, "echo /dev/*", tmp_path).split() == [
        f"/dev/{name}"
        for name in [
            "fd",
            "full",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        ]
    ]


def test_devices_work_and_shm_has_its_size(sandbox, root, tmp_path):
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=9 2>/dev/null || echo full; "
    script += "stat -c %s /dev/shm/x; echo x >/dev/null"
    assert output(sandbox, root, script, tmp_path, shm_size=8 << 20) == f"full\n{8 << 20}\n"


def test_a_user_without_rights(sandbox, root, tmp_path):
    script = "id -u; id -g; id -G; touch /usr/x 2>/dev/null || echo refused; touch /tmp/x && echo tmp"
    assert output(sandbox, root, script, tmp_path, uid=1000, gid=1000) == "1000\n1000\n1000\nrefused\ntmp\n"


def test_binds_read_only_and_not(sandbox, root, tmp_path):
    (tmp_path / "ro").mkdir()
    (tmp_path / "rw").mkdir()
    (tmp_path / "file").write_text("content")
    binds = (
        Bind(source=tmp_path / "ro", target="/data/ro"),
        Bind(source=tmp_path / "rw", target="/data/rw", read_only=False),
        Bind(source=tmp_path / "file", target="/lib/deep/file"),
    )
    script = "touch /data/ro/x 2>/dev/null || echo refused; touch /data/rw/y; cat /usr/lib/deep/file"
    assert output(sandbox, root, script, tmp_path, binds=binds) == "refused\ncontent"
    assert (tmp_path / "rw/y").exists()
    assert not (root / "data").exists()


def test_a_bind_target_cannot_lead_out_through_a_link(sandbox, root, tmp_path):
    lower, outside = tmp_path / "lower", tmp_path / "outside"
    lower.mkdir()
    outside.mkdir()
    (lower / "evil").symlink_to(outside)
    (tmp_path / "file").write_text("content")
    binds = (Bind(source=tmp_path / "file", target="/evil/file"),)
    with pytest.raises(EnvbuildError) as caught:  # the link's target is missing inside
        sandbox.run(Rootfs(lowers=(root, lower)), Command(argv=("sh",), env=ENV, binds=binds))
    assert caught.value.id == "sandbox-bind"
    assert list(outside.iterdir()) == []


def test_root_in_the_sandbox_cannot_mount_or_change_the_kernel(sandbox, root, tmp_path):
    script = "mount -t tmpfs x /usr 2>/dev/null || echo no; (echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null || echo no"
    assert output(sandbox, root, script, tmp_path) == "no\nno\n"


def test_nothing_of_the_host_is_held_open_for_the_command(sandbox, root, tmp_path):
    assert output(sandbox, root, "ls /proc/1/fd; ls /proc/self/fd", tmp_path).split() == ["0", "1", "2"] + [
        "0",
        "1",
        "2",
        "3",
    ]


@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [(("nosuch",), "/", "nosuch"), (("sh",), "/nowhere", "/nowhere"), (("/etc/passwd",), "/", "denied")],
)
def test_a_command_that_cannot_start(sandbox, root, argv, cwd, words):
    with pytest.raises(EnvbuildError) as caught:
        sandbox.run(Rootfs(lowers=(root,)), Command(argv=argv, env=ENV, cwd=cwd))
    assert caught.value.id == "command-not-run"
    assert caught.value.exit is Exit.ENGINE
    assert words in caught.value.message


def test_a_root_or_bind_that_is_missing(sandbox, root, tmp_path):
    with pytest.raises(EnvbuildError, match="gone"):
        sandbox.run(Rootfs(lowers=(tmp_path / "gone",)), Command(argv=("sh",)))
    binds = (Bind(source=tmp_path / "gone", target="/x"),)
    with pytest.raises(EnvbuildError, match="gone"):
        sandbox.run(Rootfs(lowers=(root,)), Command(argv=("sh",), binds=binds))


def test_timeout_kills_everything(sandbox, root):
    script = "sleep 3111 & (sleep 3111 & sleep 3111) & wait"
    with pytest.raises(EnvbuildError) as caught:
        sandbox.run(Rootfs(lowers=(root,)), Command(argv=("sh", "-c", script), env=ENV), timeout=1.0)
    assert caught.value.id == "sandbox-timeout"
    assert processes("3111") == []


def test_background_processes_end_with_the_command(sandbox, root):
    assert (
        sandbox.run(Rootfs(lowers=(root,)), Command(argv=("sh", "-c", "sleep 3222 & exit 5"), env=ENV)) == 5
    )
    assert processes("3222") == []


CALLER = """
import sys
from pathlib import Path
from envbuild.sandbox import *
command = Command(argv=("sleep", sys.argv[2]), env={"PATH": "/usr/bin"})
Sandbox.detect().run(Rootfs(lowers=(Path(sys.argv[1]),)), command)
"""


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGKILL, "3333"), (signal.SIGTERM, "3334"), (signal.SIGINT, "3335")]
)
def test_the_command_dies_with_its_caller(root, number, seconds):
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(root), seconds], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in processes(seconds)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    caller.send_signal(number)
    assert caller.wait(20) != 0
    wait_until_none(f"sleep\0{seconds}")


def test_many_at_once_from_threads(sandbox, root):
    codes = {}

    def one(number: int) -> None:
        command = Command(argv=("sh", "-c", f"exit {number}"), env=ENV)
        codes[number] = sandbox.run(Rootfs(lowers=(root,)), command)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: number for number in range(8)}


@pytest.fixture
def host(tmp_path):
    """A folder that stands for this machine, outside of every root."""
    folder = tmp_path / "host"
    (folder / "inner").mkdir(parents=True)
    (folder / "secret").write_text("of the host")
    return folder


@pytest.fixture
def with_links(root, tmp_path):
    """A layer over the root, with links in it."""

    def make(**links: str) -> Rootfs:
        layer = tmp_path / "layer"
        for name, target in links.items():
            layer.mkdir(exist_ok=True)
            (layer / name).symlink_to(target)
        return Rootfs(lowers=(root, layer))

    return make


def out_of(root_folder: Path) -> str:
    """A relative link's target that leads to a folder of this machine where ``/..`` is not ``/``."""
    return "../" * 20 + str(root_folder).lstrip("/")


@pytest.mark.parametrize("style", ["absolute", "relative"])
def test_a_target_that_is_a_link_is_made_in_the_root_and_not_on_this_machine(
    sandbox, tmp_path, host, with_links, style
):
    before = sorted(os.listdir(host))
    rootfs = with_links(data=str(host) if style == "absolute" else out_of(host), dev="data", opt=out_of(host))
    (tmp_path / "given").write_text("given")
    binds = (
        Bind(source=tmp_path / "given", target="/data/file"),
        Bind(source=tmp_path / "given", target="/opt/a/b/file"),
        Bind(source=tmp_path, target="/opt/folder"),
    )
    command = Command(argv=("sh", "-c", "cat /data/file"), env=ENV, binds=binds)
    try:
        sandbox.run(rootfs, command)
    except EnvbuildError as error:
        refused = error.id
    else:
        refused = None
    assert refused in (None, "sandbox-bind", "sandbox-root")
    assert sorted(os.listdir(host)) == before
    assert os.listdir(host / "inner") == []


@pytest.mark.parametrize("name", ["proc", "dev", "tmp"])
def test_a_system_folder_that_is_a_link_to_nothing_is_refused_by_name(sandbox, with_links, host, name):
    with pytest.raises(EnvbuildError, match=f"/{name}") as caught:
        sandbox.run(with_links(**{name: out_of(host)}), Command(argv=("true",), env=ENV))
    assert (caught.value.id, caught.value.exit) == ("sandbox-root", Exit.ENGINE)
    assert sorted(os.listdir(host)) == ["inner", "secret"]


def test_nothing_of_this_machine_is_above_the_root(sandbox, root, tmp_path, host):
    script = f"cd /..; ls -A; cat {out_of(host)}/secret 2>/dev/null || echo none"
    assert output(sandbox, root, script, tmp_path).split()[-1] == "none"


def test_device_nodes_that_a_root_has_or_makes_are_dead(sandbox, root, tmp_path):
    upper = tmp_path / "upper"
    shutil.copytree(root, upper, symlinks=True)
    try:
        os.mknod(upper / "zero", 0o020666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    script = """
    mknod /dev/mine c 1 5; mknod /etc/mine c 1 5
    for node in /zero /dev/mine /etc/mine; do dd if=$node bs=1 count=1 of=/dev/null 2>/dev/null && echo $node; done
    dd if=/dev/zero bs=1 count=1 of=/dev/null 2>/dev/null && echo alive
    """
    with (tmp_path / "out").open("w+b") as out:
        command = Command(argv=("sh", "-c", script), env=ENV)
        sandbox.run(Rootfs(lowers=(), upper=upper), command, stdout=out)
        out.seek(0)
        assert out.read().decode().split() == ["alive"]
