"""Promote: only a passing verdict about exactly this image gives it its tag."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate.fields import moment
from envbuild.gate.verdict import Subject, Verdict, differences
from envbuild.smoke.checks import applicable
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import Expectations

SKEW = timedelta(minutes=5)
"""How far the clock of the machine that made a verdict may be ahead of this one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a verdict must say so that an image gets its tag.

    Args:
        expected: what recipe and lock say today. The number of GPUs that a container was given is no part of it.
        lock: the digest of the lock's bytes.
        suites: the hashes of the suites whose questions count; ``None``: those of any suite.
        now: the time, with its zone.
    """

    expected: Expectations
    lock: str
    suites: frozenset[str] | None
    now: datetime


def compare(verdict: Verdict, image: Subject) -> list[str]:
    """What of ``image`` the verdict is not about: one line each with both values; empty when it is about it."""
    subject = verdict.subject
    if subject is None:
        return ["the verdict is about no image: the suite ran in a Python environment (--here)"]
    lines = [
        f"{name}: the verdict is about {theirs}, the image is {ours}"
        for name, theirs, ours in (
            ("ref", subject.ref, image.ref),
            ("manifest", subject.manifest, image.manifest),
            ("config", subject.config, image.config),
        )
        if theirs != ours
    ]
    if subject.diff_ids != image.diff_ids:
        pairs = zip(subject.diff_ids, image.diff_ids, strict=False)
        unequal = sum(theirs != ours for theirs, ours in pairs)
        unequal += abs(len(subject.diff_ids) - len(image.diff_ids))
        lines.append(
            f"layers: {unequal} differ (the verdict names {len(subject.diff_ids)}, "
            f"the image has {len(image.diff_ids)})"
        )
    return lines


def require_image(verdict: Verdict, ref: str) -> None:
    """Refuse a verdict that is about no image, before anything is done for ``ref``.

    Raises:
        EnvbuildError: exit 6.
    """
    if verdict.subject is None:
        raise EnvbuildError(
            "verdict-about-no-image",
            f"the suite ran in a Python environment ({verdict.host.executable}), not in an image: "
            "that shows that a machine is healthy, and can promote nothing",
            where=ref,
            hint=f"run `envbuild smoke {ref}`, without --here, on a machine with enough GPUs",
            exit=Exit.GATE,
        )


def promote(verdict: Verdict, image: Subject, terms: Terms) -> str:
    """Decide whether ``image`` gets its tag. Changes nothing: the caller tags.

    Args:
        verdict: as read from its file.
        image: what is to get the tag.
        terms: what the verdict must say.

    Returns:
        The name with its tag (``pytorch-cuda:v2.7``).

    Raises:
        EnvbuildError: exit 6: another image, lock or suite, other expectations, a time to come, not a pass, too few
            GPUs, a verdict of this envbuild's suite without some of its checks, or it is about no image.
    """
    expected = terms.expected
    require_image(verdict, image.ref)
    different = compare(verdict, image)
    if different:
        raise _refusal(
            "verdict-about-another-image",
            "\n".join(different),
            image,
            hint=f"the digests must be the same: run `envbuild smoke {image.ref}` on the image that is to get the tag",
        )
    changed = [key for key in differences(verdict.expected, expected) if key != "gpus"]
    if changed:
        raise _refusal(
            "verdict-of-other-expectations",
            f"the verdict was made against other expectations than recipe and lock give: {', '.join(changed)}",
            image,
        )
    _of_these(verdict, image, terms)
    if verdict.result != "passed":
        raise _refusal("verdict-not-a-pass", f"the verdict is {verdict.result!r}: {verdict.why}", image)
    if len(verdict.gpus) < expected.gpus_wanted:
        raise _refusal(
            "too-few-gpus",
            f"the verdict saw {len(verdict.gpus)} GPUs; the recipe's gate wants {expected.gpus_wanted}",
            image,
        )
    if verdict.suite == fingerprint():
        _all_checks(verdict, image, expected)
    return image.ref


def _all_checks(verdict: Verdict, image: Subject, expected: Expectations) -> None:
    """Refuse a verdict of this suite without some of its checks; what another one asks is its own matter."""
    passed = {check.id for check in verdict.checks if check.status == "passed"}
    missing = [check.id for check in applicable(expected) if check.id not in passed]
    if missing:
        raise _refusal(
            "verdict-lacks-checks",
            f"the verdict has no pass of {', '.join(missing)}, which the suite asks",
            image,
        )


def _of_these(verdict: Verdict, image: Subject, terms: Terms) -> None:
    """Refuse a verdict of another lock, of a suite that nobody named, or from the future."""
    if verdict.lock != terms.lock:
        raise _refusal(
            "verdict-of-another-lock",
            f"the verdict was made with the lock {verdict.lock}; the lock here is {terms.lock}",
            image,
            hint=f"bring the same lock.json to both machines, or run `envbuild smoke {image.ref}` with the one here",
        )
    if terms.suites is not None and verdict.suite not in terms.suites:
        known = " and ".join(sorted(terms.suites))
        raise _refusal(
            "verdict-of-another-suite",
            f"the verdict was made by the suite {verdict.suite}; those that count here are {known}",
            image,
            hint=f"run `envbuild smoke {image.ref}` with this version of envbuild, or take the answers of that suite "
            f"by `--suite {verdict.suite}`",
        )
    if moment(verdict.started) > terms.now + SKEW:
        raise _refusal(
            "verdict-from-the-future",
            f"the verdict says that the suite started at {verdict.started}; here it is "
            f"{terms.now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            image,
            hint=f"set the clocks of the two machines, then run `envbuild smoke {image.ref}` again",
        )


def _refusal(id: str, message: str, image: Subject, *, hint: str | None = None) -> EnvbuildError:
    return EnvbuildError(
        id,
        message,
        where=image.ref,
        hint=hint
        or f"run `envbuild smoke {image.ref}` on a machine with enough GPUs, then `envbuild promote`",
        exit=Exit.GATE,
    )
