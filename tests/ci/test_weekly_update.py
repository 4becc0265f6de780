"""The weekly update: locks move as far as their pins allow, and are offered with the difference in the text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import Checkout
from clirun import ROOT
from lockworld import DebianArchive, Keys, PythonIndex, Server, World, handler, serve

RECIPE = """\
description = "PyTorch for tests"
[python]
version = "3.11"
packages = ["tqdm", "rich==1.0"]
[torch]
version = "2.7.1"
[cuda]
version = "12.6"
cudnn = "9.5.1.17"
nccl = "2.26.2"
[debian]
release = "bookworm"
packages = ["less"]
"""
CP311 = "cp311-cp311-manylinux_2_28_x86_64"
LINUX = "; platform_system == 'Linux' and platform_machine == 'x86_64'"
BRANCH = "envbuild/lock-update"
GH = """\
#!/bin/sh
# Stands in for GitHub's program: remembers how it was called and the text, knows of an open request or not.
printf '%s\\n' "$*" >>"$GH_LOG"
printf '%s\\n' "${GH_TOKEN:-}" >>"$GH_LOG.token"
for word; do
    [ "${body:-}" = yes ] && cp "$word" "$GH_LOG.body"
    body=
    [ "$word" = --body-file ] && body=yes
done
if [ "$2" = list ]; then printf '%s' "${GH_OPEN:-}"; fi
"""
HOOK = """\
#!/bin/sh
# Keeps the push options as GitLab gets them, one a line.
i=0
while [ "$i" -lt "${GIT_PUSH_OPTION_COUNT:-0}" ]; do
    eval "printf '%s\\n' \\"\\$GIT_PUSH_OPTION_$i\\"" >>options
    i=$((i + 1))
done
"""


def fill(world: World) -> None:
    """A torch with its CUDA, two packages, and a Debian with what every image has."""
    cuda = ["nvidia-cuda-runtime-cu12==12.6.77", "nvidia-cudnn-cu12==9.5.1.17", "nvidia-nccl-cu12==2.26.2"]
    index, debian = world.index, world.debian
    index.wheel("torch", "2.7.1", [item + LINUX for item in cuda], tag=CP311)
    for item in cuda:
        index.wheel(*item.split("=="), tag="py3-none-manylinux2014_x86_64")
    for name, version in (("tqdm", "4.0"), ("rich", "1.0"), ("nvidia-ml-py", "1.0"), ("jupyterlab", "4.4")):
        index.wheel(name, version)
    debian.add("base-files", essential="yes", priority="required")
    debian.add("libc6", "2.36-9")
    every = [
        "base-passwd",
        "ca-certificates",
        "libc6-dev",
        "passwd",
        "python3",
        "tini",
        "tzdata",
        "usr-is-merged",
    ]
    for name in [*every, "gcc", "g++", "mawk", "python3.11", "libpython3.11-dev", "less"]:
        debian.add(name, depends="libc6")
    debian.publish()


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Indexes that the locks are made from."""
    keys = Keys.make(tmp_path_factory.mktemp("k"), "archive")
    cell: list[World] = []
    server = Server(("127.0.0.1", 0), handler(cell))
    made = World(index=PythonIndex(), debian=DebianArchive(keys=keys), mirror={}, server=server)
    cell.append(made)
    fill(made)
    serve(made)
    yield made
    server.shutdown()
    server.server_close()
    keys.stop()


@dataclass(frozen=True)
class Weekly:
    """A clone of a bare repository, and what proposals leave behind."""

    checkout: Checkout
    bare: Path
    log: Path

    def envbuild(self, *arguments: str) -> None:
        subprocess.run(
            ["envbuild", *arguments], cwd=self.checkout.folder, env=dict(self.checkout.env), check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def update(self) -> str:
        """Run update.sh; its text."""
        done = self.checkout.step("update.sh", ENVBUILD_UPDATE_BUILD="false")
        assert done.returncode == 0, done.stderr
        return (self.checkout.folder / "proposal.md").read_text()

    def propose(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.checkout.step("propose.sh", **variables)

    def branches(self) -> list[str]:
        """What the bare repository has."""
        run = ["git", "for-each-ref", "--format=%(refname:short)", "refs/heads"]
        return subprocess.run(run, cwd=self.bare, capture_output=True, text=True, check=True).stdout.split()

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def again(self) -> None:
        """As the next run starts: from main."""
        self.checkout.git("checkout", "--quiet", "--force", "main")


@pytest.fixture
def weekly(checkout: Checkout, world: World, tmp_path: Path) -> Weekly:
    """Two recipes, one of which extends the other, locked, rendered and pushed."""
    bare, log, place = tmp_path / "remote.git", tmp_path / "gh.log", tmp_path / "bin"
    place.mkdir()
    (place / "gh").write_text(GH)
    (place / "gh").chmod(0o755)
    env = {
        "PATH": f"{place}:{checkout.env['PATH']}", "GH_LOG": str(log), "ENVBUILD_FORGE": "github",
        "ENVBUILD_RECIPES": "recipes", "PIP_CONFIG_FILE": "/dev/null", "XDG_CONFIG_DIRS": str(tmp_path),
        "ENVBUILD_PYTHON_INDEX": world.simple, "ENVBUILD_DEBIAN_MIRROR": f"{world.address}/debian",
        "ENVBUILD_DEBIAN_KEYRING": str(world.debian.keys.keyring),
        "ENVBUILD_CONDA_CHANNELS": f"conda-forge={ROOT / 'tests/data/conda-forge'}",
        "ENVBUILD_UPDATE_TOKEN": "a-secret-token",
    }  # fmt: skip
    made = Weekly(checkout=checkout.with_env(**env), bare=bare, log=log)
    recipes = checkout.folder / "recipes/tiny"
    for tag, text in (
        ("v1", RECIPE),
        ("a-variant", 'description = "more"\nextends = "v1"\nparts = ["jupyter"]\n'),
    ):
        (recipes / tag).mkdir(parents=True)
        (recipes / tag / "recipe.toml").write_text(text)
    made.envbuild("lock", "tiny:v1", "--quiet")
    made.envbuild("lock", "tiny:a-variant", "--quiet")
    made.envbuild("render", "--quiet")
    checkout.commit("recipes")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", bare], check=True)
    subprocess.run(["git", "config", "receive.advertisePushOptions", "true"], cwd=bare, check=True)
    (bare / "hooks/pre-receive").write_text(HOOK)
    (bare / "hooks/pre-receive").chmod(0o755)
    checkout.git("remote", "add", "origin", str(bare))
    checkout.git("push", "--quiet", "origin", "main")
    return made


def moved(world: World) -> None:
    world.index.wheel("tqdm", "5.0")
    world.index.wheel("rich", "2.0")
    world.debian.add("less", "700")
    world.debian.publish()


def versions(checkout: Checkout, revision: str, tag: str) -> dict[str, str]:
    lock = json.loads(checkout.git("show", f"{revision}:recipes/tiny/{tag}/lock.json"))
    return {item["name"]: item["version"] for item in (*lock["python"], *lock["debian"])}


def test_where_nothing_moved_nothing_is_opened(weekly: Weekly) -> None:
    assert weekly.update() == ""
    assert weekly.checkout.git("status", "--porcelain") == ""
    done = weekly.propose()
    assert (done.returncode, done.stdout) == (0, "nothing to propose\n")
    assert weekly.branches() == ["main"]
    assert weekly.calls() == []


def test_what_moved_is_offered_with_the_difference(weekly: Weekly, world: World) -> None:
    moved(world)
    text = weekly.update()
    assert text.index("## tiny:v1\n") < text.index("## tiny:a-variant\n")
    section = text.partition("## tiny:v1\n")[2].partition("\n## ")[0]
    rows = {line.split()[0]: line.split() for line in section.splitlines() if line.strip()}
    assert rows["tqdm"][:3] == ["tqdm", "4.0", "5.0"]
    assert "700" in rows["less"]
    done = weekly.propose()
    assert done.returncode == 0, done.stderr
    assert weekly.branches() == [BRANCH, "main"]
    checkout = weekly.checkout
    checkout.git("fetch", "--quiet", "origin")
    there = f"origin/{BRANCH}"
    assert checkout.git("rev-list", "--count", f"origin/main..{there}") == "1"
    for tag in ("v1", "a-variant"):
        found = versions(checkout, there, tag)
        assert (found["tqdm"], found["less"], found["rich"], found["torch"]) == ("5.0", "700", "1.0", "2.7.1")
    changed = checkout.git("diff", "--name-only", "origin/main", there).splitlines()
    assert "recipes/tiny/v1/lock.json" in changed
    assert "recipes/tiny/v1/requirements.txt" in changed
    assert "dockerfiles/tiny-v1.requirements.txt" in changed
    assert not [name for name in changed if not name.startswith(("recipes/", "dockerfiles/"))]
    listed, created = weekly.calls()
    assert listed.startswith("pr list ")
    assert created.startswith(f"pr create --head {BRANCH} --base main --title ")
    assert Path(f"{weekly.log}.body").read_text() == text
    assert checkout.step("check.sh").returncode == 0  # what is offered agrees


def test_an_open_proposal_is_replaced(weekly: Weekly, world: World) -> None:
    world.index.wheel("tqdm", "5.0")
    weekly.update()
    assert weekly.propose().returncode == 0
    weekly.again()
    world.index.wheel("tqdm", "6.0")
    text = weekly.update()
    done = weekly.propose(GH_OPEN="17")
    assert done.returncode == 0, done.stderr
    assert weekly.calls()[-1].startswith("pr edit 17 ")
    assert Path(f"{weekly.log}.body").read_text() == text
    weekly.checkout.git("fetch", "--quiet", "origin")
    assert versions(weekly.checkout, f"origin/{BRANCH}", "v1")["tqdm"] == "6.0"
    assert weekly.checkout.git("rev-list", "--count", f"origin/main..origin/{BRANCH}") == "1"


def test_a_branch_that_a_person_has_worked_on_is_left_alone(weekly: Weekly, world: World) -> None:
    moved(world)
    weekly.update()
    assert weekly.propose().returncode == 0
    (weekly.checkout.folder / "NOTES").write_text("mine")
    mine = weekly.checkout.commit("by a person")
    weekly.checkout.git("push", "--quiet", "origin", f"HEAD:{BRANCH}")
    weekly.again()
    weekly.update()
    done = weekly.propose()
    assert done.returncode == 1
    assert "somebody else" in done.stderr
    assert weekly.checkout.git("ls-remote", "origin", BRANCH).split()[0] == mine


def test_gitlab_gets_a_merge_request_by_push_options(weekly: Weekly, world: World) -> None:
    moved(world)
    text = weekly.update()
    done = weekly.propose(ENVBUILD_FORGE="gitlab")
    assert done.returncode == 0, done.stderr
    options = (weekly.bare / "options").read_text().splitlines()
    assert {"merge_request.create", "merge_request.target=main"} <= set(options)
    [described] = [line for line in options if line.startswith("merge_request.description=")]
    assert described.removeprefix("merge_request.description=").replace("\\n", "\n") == text
    assert weekly.branches() == [BRANCH, "main"]
    assert weekly.calls() == []


def test_the_token_is_in_no_file_argument_or_log(weekly: Weekly, world: World) -> None:
    moved(world)
    weekly.update()
    done = weekly.propose()
    assert "a-secret-token" not in done.stdout + done.stderr
    assert "a-secret-token" not in weekly.log.read_text()
    assert set(Path(f"{weekly.log}.token").read_text().split()) == {"a-secret-token"}
    for file in weekly.checkout.folder.rglob("*"):
        assert not file.is_file() or b"a-secret-token" not in file.read_bytes(), file


def test_a_long_text_is_cut(weekly: Weekly, world: World) -> None:
    """GitHub takes 65536 characters; the commit and the request are made all the same."""
    moved(world)
    script = weekly.checkout.folder / "ci/pipeline/update.sh"
    script.write_text(script.read_text().replace("limit=60000", "limit=200"))
    text = weekly.update()
    assert len(text.encode()) < 400
    assert text.endswith("The rest is left out here: `envbuild diff` shows it.\n")
    assert weekly.propose().returncode == 0


def test_an_index_that_is_down_proposes_nothing(weekly: Weekly, world: World) -> None:
    world.index.failing = 503
    done = weekly.checkout.step("update.sh", ENVBUILD_UPDATE_BUILD="false")
    assert done.returncode == 4, done.stderr
    assert not (weekly.checkout.folder / "proposal.md").exists()


def test_what_pip_brings_into_an_environment_moves_too() -> None:
    script = ROOT / "ci/pipeline/upgrade_names.py"
    command = ["python3", script, "conda", ROOT / "recipes/ds-train/v2.7"]
    options = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"--upgrade=ninja", "--upgrade=numpy"} <= set(options)
    assert not {"--upgrade=deepspeed", "--upgrade=pytorch"} & set(options)
