"""A verdict for people: a line for each check with its seconds and its figure; what failed and what to do."""

from __future__ import annotations

from envbuild.gate import Verdict
from envbuild.gate.figures import key_number
from envbuild.gate.report import CheckRecord


def verdict_table(verdict: Verdict) -> list[str]:
    """The table's lines. ``stdout`` is for data, so it is plain text without colours."""
    subject = verdict.subject
    head = f"{subject.ref}  {subject.manifest}" if subject else f"{verdict.host.executable}  (about no image)"
    rows = [("CHECK", "RESULT", "SECONDS", "FIGURE"), *(_row(check) for check in verdict.checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [head, _machine(verdict), ""]
    for check, result, seconds, figure in rows:
        text = f"{check:{widths[0]}}  {result:{widths[1]}}  {seconds:>{widths[2]}}  {figure}"
        lines.append(text.rstrip())
    for record in verdict.checks:
        lines += [f"warning: {record.id}: {text}" for text in record.warnings]
    for record in verdict.checks:
        if record.status == "failed":
            lines += ["", *_failure(record)]
    return [*lines, "", f"{verdict.result}: {verdict.why}"]


def _row(check: CheckRecord) -> tuple[str, str, str, str]:
    if check.status == "not-run":
        return (check.id, "not run", "", check.seen or "")
    return (check.id, check.status, f"{check.seconds:.1f}", key_number(check))


def _machine(verdict: Verdict) -> str:
    names = [gpu.name for gpu in verdict.gpus]
    gpus = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "no GPU"
    return f"{gpus}, driver {verdict.driver or 'none'}, {verdict.engine}, {verdict.seconds:.1f} s"


def _failure(check: CheckRecord) -> list[str]:
    details = (("expected", check.expected), ("seen", check.seen), ("hint", check.hint))
    lines = [f"{check.id}: {check.reason}"]
    for name, text in details:
        first, *further = (text or "").split("\n")
        lines += [f"  {name + ':':9} {first}", *(" " * 12 + line for line in further)] if text else []
    return lines
