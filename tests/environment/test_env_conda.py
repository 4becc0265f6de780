"""conda's own code works on an environment that it did not make.

The code is the copy of conda that conda-lock brings; no conda program is needed. It runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

from envworld import World, said

PRELUDE = """
import json, sys, types
sys.modules["tqdm"] = types.SimpleNamespace(tqdm=None)  # draws the solver's bar, which is not used here
from conda_lock._vendor.conda.base.context import reset_context
reset_context(())
from conda_lock._vendor.conda.core.prefix_data import PrefixData
prefix = sys.argv[1]
"""

READ = """
from conda_lock._vendor.conda.activate import PosixActivator
from conda_lock._vendor.conda.history import History
activator = PosixActivator(["posix", "activate", prefix])
print(json.dumps({
    "packages": sorted(record.dist_str() for record in PrefixData(prefix).iter_records()),
    "asked for": {name: str(spec) for name, spec in History(prefix).get_requested_specs_map().items()},
    "path": activator.build_activate(prefix)["export_vars"]["PATH"].split(":")[0],
}))
"""

REMOVE = """
from conda_lock._vendor.conda.core.link import PrefixSetup, UnlinkLinkTransaction
from conda_lock._vendor.conda.models.match_spec import MatchSpec
record = PrefixData(prefix).get("greet")
transaction = UnlinkLinkTransaction(PrefixSetup(prefix, (record,), (), (MatchSpec("greet"),), (), ()))
transaction.prepare()
transaction.verify()
transaction.execute()
"""


def conda(world: World, code: str, prefix: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, prefix],
        env={
            "HOME": str(world.folder),
            "PATH": "/usr/bin:/bin",
            "CONDA_PKGS_DIRS": str(world.folder / "pkgs"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_conda_reads_and_activates_it(world: World) -> None:
    prefix = world.create().prefix
    seen = json.loads(conda(world, READ, str(prefix)))
    assert seen["packages"] == sorted(
        world.lock.url(package).replace(f"/{package.file}", f"::{package.file.removesuffix('.conda')}")
        for package in world.lock.packages
    )
    assert seen["asked for"] == {"python": "python=3.11"}
    assert seen["path"] == f"{prefix}/bin"


def test_conda_removes_a_package_and_nothing_of_it_stays(world: World) -> None:
    prefix = world.create().prefix
    conda(world, REMOVE, str(prefix))
    assert [str(path) for path in prefix.rglob("*greet*")] == []
    assert said(prefix / "bin/small-home") == f"{prefix}\n"
