"""Looks at everything, in a fixed order. Nothing is changed and nothing is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envbuild.doctor import engines, gpus, machine, sources
from envbuild.doctor.report import Finding, Report
from envbuild.progress import Progress


def examine(store: Path, environ: Mapping[str, str], progress: Progress) -> Report:
    """Examine this machine.

    Args:
        store: the store's folder; it need not exist and is not made.
        environ: the caller's environment, for addresses, proxies and certificates.
        progress: a step for the whole.

    Nothing raises: what goes wrong is a finding.
    """
    looks: Sequence[Callable[[], Finding]] = (
        lambda: engines.docker(environ),
        lambda: engines.docker_gpus(environ),
        lambda: engines.oci(environ),
        engines.sandbox,
        lambda: engines.overlay(store),
        lambda: engines.inflate(environ),
        gpus.gpus,
        gpus.driver,
        gpus.driver_files,
        machine.shared_memory,
        machine.locked_memory,
        lambda: machine.store(store),
        lambda: sources.apt(environ),
        lambda: sources.gpgv(environ),
        lambda: sources.keyring(environ),
        lambda: sources.debian_mirror(environ),
        lambda: sources.python_index(environ),
        lambda: sources.proxies(environ),
        lambda: sources.certificates(environ),
    )
    with progress.task("Examining this machine", total=len(looks), unit="checks") as task:

        def look(one: Callable[[], Finding]) -> Finding:
            found = one()
            task.advance(1)
            return found

        with ThreadPoolExecutor(8) as pool:
            return Report(findings=tuple(pool.map(look, looks)))
