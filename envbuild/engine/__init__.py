"""What runs a container: Docker, a bare OCI runtime, or the sandbox (docs/reference/engines.md)."""

from envbuild.engine.archive import archive_chunks, write_archive
from envbuild.engine.detect import NAMES, Found, detect, survey
from envbuild.engine.model import Engine, Gpus, ImageRef, Mount, RunCommand, Streams, passed_on

__all__ = [
    "NAMES",
    "Engine",
    "Found",
    "Gpus",
    "ImageRef",
    "Mount",
    "RunCommand",
    "Streams",
    "archive_chunks",
    "detect",
    "passed_on",
    "survey",
    "write_archive",
]
