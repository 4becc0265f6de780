"""Templates, and the quoting that their values need."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jinja2


def template_text(template: str, values: Mapping[str, object]) -> str:
    """The text that a template of ``envbuild/render/templates`` gives; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("envbuild.render"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # the files are not HTML; values are quoted by the filters below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    environment.filters["words"] = lambda words: json.dumps(list(words))
    return environment.get_template(template).render(values)


def quoted(text: str) -> str:
    """``text`` as a double-quoted word of a Dockerfile: nothing in it is expanded, and it stays on one line."""
    escaped = "".join(f"\\{c}" if c in '\\"$' else c for c in one_line(text))
    return f'"{escaped}"'


def one_line(text: str) -> str:
    """``text`` with every run of white space as one space: it cannot leave its comment."""
    return " ".join(text.split())
