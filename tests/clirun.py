"""The command line as users have it: a process, its exit code, stdout and stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envbuild

ROOT = Path(envbuild.__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there."""


@dataclass(frozen=True)
class Done:
    """What a call came to."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """Runs ``envbuild`` with a clean environment, in ``folder``, with a store of its own."""

    folder: Path
    env: Mapping[str, str]

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "envbuild", *arguments]

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        done = self.quoting(*arguments, env=env)
        assert "Traceback" not in done.out + done.err, done
        return done

    def quoting(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """As a call, where the output may quote a traceback of a program in a container."""
        run = subprocess.run(
            self.argv(*arguments),
            env={**self.env, **(env or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=600,
        )
        return Done(run.returncode, run.stdout, run.stderr)

    def fails(self, code: int, id: str, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """Run what must fail: the exit code, one error with this id and a hint on stderr, nothing on stdout."""
        done = self(*arguments, env=env)
        assert done.code == code, done
        assert f"error[{id}]: " in done.err, done
        assert done.err.count("error[") == 1, done
        assert "\n hint: " in done.err, done
        if "--json" not in arguments:
            assert done.out == "", done
        return done
