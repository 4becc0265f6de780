"""The ready pipelines: valid by the vendors' schemas, least in what they may, and made of steps that there are."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from clirun import ROOT

from envbuild.cli.app import app

CI = ROOT / "ci"
GITHUB = sorted((CI / "github").glob("*.yml"))
GITLAB = sorted((CI / "gitlab").glob("*.yml"))
SCRIPTS = sorted((CI / "pipeline").glob("*.sh"))
SOURCED = CI / "pipeline/repository.sh"
BIN = Path(sys.executable).parent
PLAIN = {'export PATH="$PWD/.ci-venv/bin:$PATH"', "true"}
"""Lines of GitLab's jobs that no script can stand for."""


def of(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def workflow(path: Path) -> dict[Any, Any]:
    """YAML 1.1 reads `on` as true."""
    return yaml.safe_load(path.read_text())


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return workflow(path)["jobs"]


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path).values():
        yield from job.get("steps", [])


def gitlab_jobs(path: Path) -> dict[str, dict[str, Any]]:
    words = {"workflow", "stages", "variables", "include", "default"}
    return {name: job for name, job in workflow(path).items() if name not in words}


def lines() -> Iterator[tuple[str, str]]:
    """Every command line of the pipelines, with the file that it is in."""
    for path in GITHUB:
        for step in steps(path):
            if "run" in step:
                for line in step["run"].splitlines():
                    yield path.name, line
    for path in GITLAB:
        for job in gitlab_jobs(path).values():
            for line in [*job.get("before_script", []), *job.get("script", [])]:
                yield path.name, line


def commands(script: Path) -> Iterator[list[str]]:
    """The calls of envbuild in a script, as words."""
    text = script.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        for call in re.findall(r"(?:^\s*|\(|=[A-Za-z_$\"]* )(envbuild [^|#>)]*)", line.partition(" #")[0]):
            yield shlex.split(call.partition("||")[0].replace('"$@"', ""))


def problem(words: list[str]) -> str | None:
    """Why envbuild has no such call, if so: each word before the first option is the command, each option is its."""
    command: click.Command = app
    rest = words[1:]
    while isinstance(command, click.Group):
        if rest and rest[0].startswith("-"):
            return None if rest[0] in {"--version", "--help"} else f"option {rest[0]}"
        found = command.get_command(click.Context(command), rest[0]) if rest else None
        if found is None:
            return f"command {' '.join(words[:2])}"
        command, rest = found, rest[1:]
    known = {name for p in command.params if isinstance(p, click.Option) for name in p.opts}
    unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
    return f"{' '.join(words)}: {unknown}" if unknown else None


@of(GITHUB)
def test_github_s_schema(path: Path) -> None:
    schema = ["--builtin-schema", "vendor.github-workflows"]
    subprocess.run([BIN / "check-jsonschema", *schema, path], check=True)


@of(GITLAB)
def test_gitlab_s_schema(path: Path) -> None:
    schema = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    subprocess.run([BIN / "check-jsonschema", *schema, path], check=True)


def test_the_schemas_refuse_what_is_wrong(tmp_path: Path) -> None:
    text = GITHUB[0].read_text()
    (tmp_path / "wrong.yml").write_text(text.replace("runs-on:", "run-on:", 1))
    schema = ["--builtin-schema", "vendor.github-workflows"]
    assert (
        subprocess.run([BIN / "check-jsonschema", *schema, tmp_path / "wrong.yml"], check=False).returncode
        == 1
    )


def test_there_are_pipelines() -> None:
    assert [path.name for path in GITHUB] == ["image.yml", "images.yml", "weekly-update.yml"]
    assert len(GITLAB) == 3
    assert len(list(lines())) > 20


def test_every_line_is_a_script_that_is_there() -> None:
    for file, line in lines():
        if line in PLAIN:
            continue
        assert re.fullmatch(r"ci/pipeline/[a-z-]+\.sh", line), f"{file}: {line}"
        assert os.access(ROOT / line, os.X_OK), f"{file}: {line}"


def test_every_script_is_used() -> None:
    called = {line.rpartition("/")[2] for _, line in lines()}
    text = "".join(path.read_text() for path in SCRIPTS)
    for script in SCRIPTS:
        assert script.name in called or f'/{script.name}"' in text, script.name


@of(SCRIPTS)
def test_every_call_of_envbuild_exists(path: Path) -> None:
    for words in commands(path):
        assert problem(words) is None, problem(words)


def test_calls_are_found_and_wrong_ones_are_seen() -> None:
    found = {" ".join(words[:2]) for path in SCRIPTS for words in commands(path)}
    assert found >= {
        "envbuild list", "envbuild lock", "envbuild render", "envbuild matrix", "envbuild image", "envbuild publish",
        "envbuild smoke", "envbuild verdict", "envbuild promote", "envbuild verify", "envbuild diff", "envbuild doctor",
    }  # fmt: skip
    assert problem(["envbuild", "matrix", "--json"]) is None
    assert problem(["envbuild", "matrix", "--yaml"])
    assert problem(["envbuild", "metrics"])


@of(SCRIPTS)
def test_every_script_explains_itself_and_stops_at_a_failure(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines()
    assert first == "#!/bin/sh"
    assert re.match(r"# [A-Z].*[.,:?]?$", second)
    assert path == SOURCED or "set -eu" in rest
    assert os.access(path, os.X_OK) == (path != SOURCED)


def test_shellcheck_passes() -> None:
    subprocess.run([BIN / "shellcheck", "--external-sources", *SCRIPTS], cwd=ROOT, check=True)


@of(SCRIPTS)
def test_every_variable_of_a_script_is_explained(path: Path) -> None:
    """In its own first lines, or in those of the file that it reads."""
    text = path.read_text()
    head = "".join(
        line for line in [*text.splitlines(), *SOURCED.read_text().splitlines()] if line.startswith("#")
    )
    for name in set(re.findall(r"\$\{?((?:ENVBUILD|GITHUB)_[A-Z_]+)", text)) - {"ENVBUILD_RECIPES"}:
        assert name in head, f"{path.name}: {name}"


def test_every_variable_that_a_pipeline_sets_is_read() -> None:
    """By a script, or by envbuild itself."""
    read = "".join(path.read_text() for path in [*SCRIPTS, *(ROOT / "envbuild").rglob("*.py")])
    for path in [*GITHUB, *GITLAB]:
        for name in re.findall(r"^ +((?:ENVBUILD)_[A-Z_]+):", path.read_text(), re.MULTILINE):
            assert name in read, f"{path.name}: {name}"


def test_the_how_to_names_only_what_is_read_and_what_is_there() -> None:
    page = (ROOT / "docs/how-to/ci.md").read_text()
    files = [*SCRIPTS, *GITHUB, *GITLAB, CI / "pipeline/child_pipeline.py"]
    read = "".join(path.read_text() for path in files)
    for name in set(re.findall(r"ENVBUILD_[A-Z_]+", page)):
        assert name in read, name
    for name in set(re.findall(r"\b[a-z-]+\.sh\b", page)):
        assert CI / "pipeline" / name in SCRIPTS, name
    for name in ("envbuild-build", "envbuild-gate"):
        assert name in page
        assert name in read


# what they may


@of(GITHUB)
def test_actions_are_pinned_to_a_commit(path: Path) -> None:
    for line in re.findall(r"uses: (.*)", path.read_text()):
        assert line.startswith("./") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@of(GITHUB)
def test_jobs_get_the_least_permissions(path: Path) -> None:
    assert workflow(path)["permissions"] == {}
    for name, job in jobs(path).items():
        assert set(job["permissions"]) <= {"contents", "packages", "pull-requests"}, name
        if path.name != "weekly-update.yml":
            assert job["permissions"]["contents"] == "read", name


@of(GITHUB)
def test_jobs_end_by_themselves_and_not_twice_at_once(path: Path) -> None:
    assert workflow(path)["concurrency"]["group"]
    for name, job in jobs(path).items():
        assert "uses" in job or job["timeout-minutes"] <= 300, name


@of(GITHUB)
def test_no_step_leaves_the_token_behind(path: Path) -> None:
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@of(GITHUB)
def test_nothing_of_an_event_gets_into_a_shell(path: Path) -> None:
    """Values go through the environment: a branch may be called `$(…)`."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")


def test_a_fork_s_pull_request_gets_no_secret_and_no_machine_of_ours() -> None:
    path = CI / "github/images.yml"
    triggers = workflow(path)[True]
    assert "pull_request" in triggers
    assert "pull_request_target" not in triggers
    assert "workflow_run" not in triggers
    for name, job in jobs(path).items():
        if "pull_request'" in str(job.get("if", "")) and "!=" in job["if"]:
            continue
        assert "secrets" not in json.dumps(job), name
        assert job["permissions"] == {"contents": "read"}, name
        assert job["runs-on"] == "ubuntu-24.04", name
    assert [name for name, job in jobs(path).items() if "!= 'pull_request'" in job.get("if", "")] == ["image"]
    for other in GITHUB:
        if other != path:
            assert not {"pull_request", "pull_request_target"} & set(workflow(other)[True]), other.name


def test_keys_that_sign_are_where_they_are_needed_only() -> None:
    """The gate's key is a secret of an environment of its own; the job that builds does not see it."""
    found = jobs(CI / "github/image.yml")
    assert {name: job["environment"] for name, job in found.items()} == {
        "publish": "envbuild-build", "gate": "envbuild-gate", "promote": "envbuild-gate",
    }  # fmt: skip
    for path in GITHUB:
        for name, job in jobs(path).items():
            if "SIGNING_KEY" in json.dumps(job):
                assert "environment" in job, name


def test_no_secret_is_echoed() -> None:
    for path in SCRIPTS:
        text = path.read_text()
        assert not re.search(r"set -[a-z]*x", text), path.name
        for line in text.splitlines():
            if re.search(r"(PASSWORD|TOKEN|SIGNING_KEY)", line) and not line.startswith("#"):
                assert not re.search(r"\becho\b", line), line


def test_gitlab_s_jobs_with_secrets_run_on_the_default_branch_only() -> None:
    common = gitlab_jobs(CI / "gitlab/image.gitlab-ci.yml")
    assert common[".image"]["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    for name in (".publish", ".gate", ".promote"):
        assert common[name]["extends"] == ".image"
        assert "rules" not in common[name]
    images = gitlab_jobs(CI / "gitlab/images.gitlab-ci.yml")["images"]
    assert all("$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH" in rule["if"] for rule in images["rules"])


@of(GITLAB)
def test_gitlab_s_jobs_end_by_themselves(path: Path) -> None:
    every = {name: job for file in GITLAB for name, job in gitlab_jobs(file).items()}

    def has_timeout(job: dict[str, Any]) -> bool:
        return "timeout" in job or has_timeout(every[job["extends"]])

    for name, job in gitlab_jobs(path).items():
        if "script" in job:
            assert has_timeout(job), name


def test_no_host_of_a_package_registry_is_named() -> None:
    for path in [*GITHUB, *GITLAB, *(CI / "pipeline").iterdir()]:
        if path.is_file():
            assert not re.search(r"https?://", path.read_text()), path.name
