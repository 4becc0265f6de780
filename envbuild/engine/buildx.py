"""Build with BuildKit, by ``docker buildx build`` as a process: docker-py knows the classic builder only."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from envbuild.engine.build_display import Display
from envbuild.engine.build_errors import failure, no_buildx, no_docker, too_old
from envbuild.engine.build_events import plain_events, raw_events
from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import Progress, SilentProgress

_RAW_FROM = (0, 13)
_REWRITES_FROM = (0, 13)
_CONTEXTS_FROM = 23
_ASK_SECONDS = 60.0
_STOP_SECONDS = 10.0
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to build.

    Args:
        name: the ``repository:tag`` that the image gets at the end.
        folder: the build context; nothing else of the machine is sent but ``contexts``.
        dockerfile: the file in it.
        images: the build arguments that name images to start from.
        arguments: further build arguments. Proxies are passed on without being asked for.
        contexts: folders by the name that the Dockerfile has for them.
        secrets: files by id, which the build may read and the image does not get.
        network: what RUN steps have: ``none``, ``default`` or ``host``.
        epoch: seconds since 1970: the image's time (SOURCE_DATE_EPOCH).
        labels: labels that win over the Dockerfile's.
        fresh: whether every step is run, though its result is cached.
    """

    name: str
    folder: Path
    dockerfile: str
    images: Mapping[str, str]
    arguments: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, Path] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    network: str = "default"
    epoch: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came out: the config's digest, and how many steps ran and how many were cached."""

    config: str
    ran: int
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buildx:
    """A buildx that answers.

    ``command`` starts it; ``driver`` is where it builds (``docker``: in the engine itself). ``rewrites`` is whether
    its exporter sets the times of the layers' files to SOURCE_DATE_EPOCH at the latest: BuildKit 0.13 does. The
    engine's own does not: with graph drivers it ignores the option, with images in containerd it refuses it
    ("rewrite-timestamp conflicts with unpack"; both seen with 26.1).
    """

    command: tuple[str, ...]
    version: str
    driver: str
    engine: str
    rewrites: bool
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Buildx:
        """The first ``docker`` on the PATH whose plugin answers, and what it builds with.

        Errors (exit 7): ``no-docker``, ``no-buildx``, ``engine-too-old``, ``docker-not-running``.
        """
        programs = _programs(environ)
        if not programs:
            raise no_docker()
        said = ""
        for program in programs:
            done = _ask([program, "buildx", "version"], environ)
            found: re.Match[str] | None = re.search(r"\bv?(\d+\.\d+\.\d+)", done.stdout)
            if done.returncode == 0 and found:
                return cls._described(program, found[1], environ)
            said = said or _last_line(done.stderr or done.stdout)
        raise no_buildx(said or "it says nothing")

    @classmethod
    def _described(cls, program: str, version: str, environ: Mapping[str, str]) -> Buildx:
        command = (program, "buildx")
        done = _ask([*command, "inspect"], environ)
        if done.returncode != 0:
            raise _unusable(_last_line(done.stderr))
        fields = dict(re.findall(r"^ *([A-Za-z ]+): +(\S+)", done.stdout, re.MULTILINE))
        driver = fields.get("Driver", "docker")
        told = _ask([program, "version", "--format", "{{.Server.Version}}"], environ)
        if told.returncode != 0:
            raise _unusable(_last_line(told.stderr))
        engine = told.stdout.strip()
        if driver == "docker" and int((re.match(r"\d+", engine) or ["0"])[0]) < _CONTEXTS_FROM:
            raise too_old(engine)
        buildkit = _numbers(fields.get("BuildKit version") or fields.get("Buildkit") or "")
        rewrites = driver != "docker" and buildkit >= _REWRITES_FROM
        return cls(
            command=command, version=version, driver=driver, engine=engine, rewrites=rewrites, environ=environ
        )

    def describe(self) -> str:
        """Versions and driver, for people."""
        return f"buildx {self.version} with Docker {self.engine}, driver {self.driver}"

    def check_bases(self, images: Mapping[str, str], *, log: Path) -> None:
        """Resolve every image that the build starts from, and pull what the engine lacks.

        So that a base that cannot be had is told before anything is fetched for it.

        Errors: ``base-unreachable``, ``base-refused``, ``base-not-found`` (exit 4); exit 7 for the engine's own.
        """
        with tempfile.TemporaryDirectory(prefix="envbuild-base-") as folder:
            (Path(folder) / "Dockerfile").write_text("ARG IMAGE\nFROM ${IMAGE}\n", encoding="utf-8")
            for argument, image in dict(images).items():
                command = [*self.command, "build", self._progress, "--output=type=cacheonly"]
                command += [f"--build-arg=IMAGE={image}", folder]
                display, code = self._run(command, log, SilentProgress(), {})
                if code != 0:
                    raise failure(display.failed, display.rest, images={argument: image}, log=log, name=image)

    def build(self, order: Order, *, log: Path, progress: Progress) -> Made:
        """Build, and bring the image into the engine under its name; what was under it stays until then.

        Ctrl-C stops the build, and nothing of it goes on.

        Args:
            order: what to build.
            log: gets everything that the build writes; its folder must be there.
            progress: a task for each step that does something.

        Errors: ``build-step-failed``, ``build-failed``, ``engine-full``, ``engine-stopped`` (exit 7); as
        :meth:`check_bases` (exit 4).
        """
        sizes = {name: _bytes_in(folder) for name, folder in order.contexts.items()}
        with tempfile.TemporaryDirectory(prefix="envbuild-buildx-") as folder:
            facts = Path(folder) / "metadata.json"
            display, code = self._run(self._argv(order, facts), log, progress, sizes)
            if code != 0:
                raise failure(display.failed, display.rest, images=order.images, log=log, name=order.name)
            told = json.loads(facts.read_bytes())
        steps = [step for step in display.steps.values() if not step.name.startswith("[internal]")]
        cached = sum(step.cached for step in steps)
        config = told.get("containerimage.config.digest") or told.get("containerimage.digest")
        return Made(config=str(config), ran=len(steps) - cached, cached=cached)

    def _argv(self, order: Order, facts: Path) -> list[str]:
        proxies = [name for name in (*_PROXIES, *map(str.upper, _PROXIES)) if self.environ.get(name)]
        return [
            *self.command,
            "build",
            self._progress,
            f"--file={order.folder / order.dockerfile}",
            f"--output=type=docker,name={order.name}" + (",rewrite-timestamp=true" if self.rewrites else ""),
            f"--metadata-file={facts}",
            f"--network={order.network}",
            "--provenance=false",
            f"--build-arg=SOURCE_DATE_EPOCH={order.epoch}",
            *(
                f"--build-arg={key}={value}"
                for key, value in (*order.images.items(), *order.arguments.items())
            ),
            *(
                f"--build-arg={name}" for name in proxies
            ),  # the value, which may hold a password, from the environment
            *(f"--build-context={key}={value}" for key, value in order.contexts.items()),
            *(f"--label={key}={value}" for key, value in order.labels.items()),
            *(["--no-cache"] if order.fresh else []),
            *(f"--secret=id={key},src={value}" for key, value in order.secrets.items()),
            str(order.folder),
        ]

    @property
    def _progress(self) -> str:
        return f"--progress={'rawjson' if _numbers(self.version) >= _RAW_FROM else 'plain'}"

    def _run(
        self, command: Sequence[str], log: Path, progress: Progress, sizes: Mapping[str, int]
    ) -> tuple[Display, int]:
        raw = _numbers(self.version) >= _RAW_FROM
        with log.open("a", encoding="utf-8") as out, _process(command, self.environ) as process:
            display = Display(progress, out, sizes)
            stream: TextIO = process.stderr  # type: ignore[assignment]  # it is a pipe
            with display.shown():
                for event in raw_events(stream) if raw else plain_events(stream):
                    display.take(event)
            return display, process.wait()


@contextmanager
def _process(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The program in a process group of its own, which is stopped when the context is left before its end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        if process.stderr is not None:
            process.stderr.close()


def _programs(environ: Mapping[str, str]) -> list[str]:
    folders = (environ.get("PATH") or os.defpath).split(os.pathsep)
    found = [shutil.which("docker", path=folder) for folder in folders if folder]
    return list(dict.fromkeys(program for program in found if program))


def _ask(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=dict(environ), timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(args=command, returncode=1, stdout="", stderr=str(error))


def _unusable(said: str) -> EnvbuildError:
    return EnvbuildError(
        "docker-not-running",
        f"Docker's builder does not answer: {said or 'it says nothing'}",
        hint="start the engine (sudo systemctl start docker, or ci/docker-engine.sh on Debian) or set DOCKER_HOST; "
        "`docker buildx ls` shows the builders, `docker buildx use default` takes the engine's own",
        exit=Exit.ENGINE,
    )


def _numbers(version: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
