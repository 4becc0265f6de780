"""What is written can be read again: seen before a file is replaced, so that nothing good gives way to what is not."""

from __future__ import annotations

from collections.abc import Callable

from envbuild.errors import EnvbuildError, Exit


def readable(make: Callable[[], bytes], read: Callable[[bytes], object], *, where: str) -> bytes:
    """The bytes that ``make`` gives, if ``read`` takes them.

    Args:
        make: gives what is to be written.
        read: reads it, as whoever comes later does: it raises what that one would meet.
        where: the file, for messages.

    Raises:
        EnvbuildError: ``not-readable-again``, with the exit code of the reader's error (3 where it has none).
    """
    try:
        data = make()
        read(data)
    except EnvbuildError as error:
        raise _refusal(error.message, error.exit, where) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refusal(str(error), Exit.INPUT, where) from error
    return data


def _refusal(why: str, exit: Exit, where: str) -> EnvbuildError:
    return EnvbuildError(
        "not-readable-again",
        f"what would be written could not be read again, so the file stays as it was: {why}",
        where=where,
        hint="the message names the value; pin another version of what it comes from, and please report it",
        exit=exit,
    )
