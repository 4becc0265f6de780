"""Errors of an index, with the variable that names another one."""

from __future__ import annotations

from envbuild.errors import EnvbuildError, Exit


def with_way_out(error: EnvbuildError, variable: str) -> EnvbuildError:
    """The same error; where the network is at fault, the hint also names the variable that sets another address."""
    if error.exit != Exit.NETWORK or variable in error.hint:
        return error
    hint = f"{error.hint.rstrip('.')}; {variable} names another address"
    return EnvbuildError(error.id, error.message, hint=hint, exit=error.exit, where=error.where)
