"""The published JSON Schema of what is signed. ``python -m envbuild.gate.schema`` prints it."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from envbuild.gate.statement import Statement


def verdict_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the signed payload, made from the types that read it."""
    made = msgspec.json.schema(Statement)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "envbuild verdict",
        "description": "The payload of a verdict's DSSE envelope: an in-toto test result. "
        "The verdict itself is predicate.envbuild.",
        **made,
    }


def schema_text() -> str:
    """The file's content: docs/reference/verdict.schema.json."""
    return json.dumps(verdict_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
