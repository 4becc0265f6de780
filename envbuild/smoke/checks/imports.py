"""``imports``: the packages that people came for import, from where they were installed."""

from __future__ import annotations

import importlib
import time
import traceback
from pathlib import Path
from typing import Any

from ..causes import hint_of
from ..context import Context
from ..installed import by_name, canonical, files_of
from ..model import Failure


def run(context: Context) -> dict[str, Any]:
    """Import each expected module and compare the file that Python took with the package's RECORD."""
    seconds: dict[str, float] = {}
    for name in context.expectations.imports:
        started = time.monotonic()
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            traceback.print_exc()
            raise Failure(
                expected=f"`import {name}` to succeed",
                seen=f"{type(error).__name__}: {error}",
                hint=hint_of(
                    f"{type(error).__name__}: {error}",
                    f'`python -c "import {name}"` in a container of the image shows the whole traceback',
                ),
                numbers={"seconds": seconds},
            ) from error
        seconds[name] = round(time.monotonic() - started, 3)
        _compare(name, str(getattr(module, "__file__", None)))
    return {"seconds": seconds}


def _compare(name: str, file: str) -> None:
    """The module's file must be one that the package of that name recorded."""
    distribution = by_name().get(canonical(name), [None])[0]
    recorded = [] if distribution is None else [path.resolve() for path in files_of(distribution).values()]
    if Path(file).resolve() not in recorded:
        raise Failure(
            expected=f"{name} from its installed package",
            seen=f"{name} from {file}",
            hint="another copy is earlier on sys.path: look at PYTHONPATH and at .pth files",
        )
