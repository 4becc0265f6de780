"""The lines of keys in TOML, whatever the document looks like."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from envbuild.recipe.keylines import key_lines


def test_tables_keys_and_elements_have_lines() -> None:
    text = "a = 1\n[b]\nc = [\n  'x', # [no]\n  'y',\n]\n"
    text += "[b.d]\n\"e f\" = '''\n[not.a.table]\n'''\ng.h = {i = 1}\n[[j]]\nk=1\n"
    assert key_lines(text) == {
        "a": 1, "b": 2, "b.c": 3, "b.c[0]": 4, "b.c[1]": 5, "b.d": 7, "b.d.e f": 8,
        "b.d.g.h": 11, "b.d.g.h.i": 11, "j": 12, "j.k": 13,
    }  # fmt: skip


def test_quotes_brackets_and_comments_inside_values_do_not_confuse() -> None:
    text = 'a = "\\"[x]\\\\" # b = 1\nc = """\nd = 1\n\\"""x""""\n'
    text += "e = [[1, 2], [\"]\", '#']]\r\nf = 1979-05-27T07:32:00Z\n"
    tomllib.loads(text)
    assert {key: line for key, line in key_lines(text).items() if "[" not in key} == {
        "a": 1,
        "c": 2,
        "e": 5,
        "f": 6,
    }


WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)


def basic(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


VALUES = st.one_of(
    TEXTS.map(basic),
    TEXTS.filter(lambda text: "'" not in text).map(lambda text: f"'{text}'"),
    st.integers(-99, 99).map(str),
    st.booleans().map(lambda value: "true" if value else "false"),
    st.lists(TEXTS.map(basic), max_size=3).map(lambda items: "[" + ",\n ".join(items) + "]"),
    TEXTS.map(lambda text: '"""\n' + basic(text)[1:-1] + '\n"""'),
)


@given(st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=4), max_size=4))
def test_every_key_of_any_document_is_found_on_its_line(tables: dict[str, dict[str, str]]) -> None:
    lines: list[str] = []
    expected: dict[str, int] = {}
    for table, pairs in tables.items():
        lines += ["# [comment]", f"[{table}]"]
        expected[table] = len(lines)
        for key, value in pairs.items():
            expected[f"{table}.{key}"] = len(lines) + 1
            lines += f"{key} = {value} # x = 1".split("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    assert {key: line for key, line in key_lines(text).items() if "[" not in key} == expected
