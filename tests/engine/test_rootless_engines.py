"""An ordinary user without any rights: the bare runtimes and the sandbox run images all the same."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import tinyimage
from needed import need

import envbuild

USER = "envbuild-test"
CODE = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
import tinyimage
from envbuild.engine import Mount, RunCommand, detect
from envbuild.engine.oci import OciRuntime
from envbuild.engine.roots import Roots
from envbuild.progress import SilentProgress
from envbuild.sandbox import Sandbox
from envbuild.store import Store
with Store.open(pathlib.Path.home() / "store") as store:
    image = tinyimage.make_image(store.layout, mark="rootless")
    environ = {**os.environ, "NCCL_P2P_DISABLE": "1"}
    if sys.argv[2] == "sandbox":
        engine = detect("sandbox", store, environ, jobs=1)[0]
    else:
        engine = OciRuntime(pathlib.Path(sys.argv[2]), Roots(store=store, sandbox=Sandbox.detect(), jobs=1), environ)
    engine.load(image, SilentProgress())
    own = pathlib.Path.home() / "own"
    own.mkdir(exist_ok=True)
    script = "id -u; stat -c %u:%g /etc/mark; echo $NCCL_P2P_DISABLE; df -k /dev/shm | tail -n 1; echo x > /data/new"
    for network in (False, True):
        command = RunCommand(
            argv=("sh", "-c", script),
            network=network,
            shm_size=100 << 20,
            mounts=(Mount(source=own, target="/data", read_only=False),),
        )
        print("status", engine.run(image, command), (own / "new").stat().st_uid == os.getuid(), flush=True)
    print("user", engine.run(image, RunCommand(argv=("id", "-u"), user="worker", network=False)), flush=True)
    sandbox = Sandbox.detect()
    for root in store.roots.iterdir():
        sandbox.remove(root)
"""


@pytest.fixture(scope="module")
def home() -> Path:
    """A user with subordinate ids and a clean home folder. Making one needs root."""
    assert os.getuid() == 0, "the tests make a user, so they need root"
    need("newuidmap")
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        entry = pwd.getpwnam(USER)
    if USER not in Path("/etc/subuid").read_text():
        ranges = ["--add-subuids", "700000-765535", "--add-subgids", "700000-765535"]
        subprocess.run(["usermod", *ranges, USER], check=True)
    return Path(entry.pw_dir)


@pytest.fixture(scope="module")
def python(home: Path) -> str:
    """A Python 3.11 that the user may start: the tests' own may lie in a folder of root's."""
    for found in ("/usr/bin/python3.11", os.path.realpath(sys.executable)):
        if (
            Path(found).exists()
            and subprocess.run([*as_user(), found, "-c", ""], check=False).returncode == 0
        ):
            return found
    raise AssertionError(f"{USER} can start no Python 3.11: install Debian's python3")


def as_user() -> list[str]:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]


@pytest.mark.parametrize("engine", ["crun", "runc", "sandbox"])
def test_an_ordinary_user_runs_an_image(engine: str, home: Path, python: str) -> None:
    program = engine if engine == "sandbox" else need(engine)
    tests = Path(__file__).parents[1]  # what tinyimage imports
    packages = [str(Path(envbuild.__file__).parents[1]), str(tests)]
    packages += [path for path in sys.path if path.endswith("-packages")]
    done = subprocess.run(
        [*as_user(), python, "-c", CODE, str(Path(tinyimage.__file__).parent), program],
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": ":".join(packages), "HOME": str(home)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("shm", "tmpfs"))]
    once = ["0", "0:0", "1", "status 0 True"]
    assert lines == [*once, *once, "1000", "user 0"], done.stdout + done.stderr
    sizes = {line.split()[1] for line in done.stdout.splitlines() if line.startswith(("shm", "tmpfs"))}
    assert sizes == {str(100 << 10)}
