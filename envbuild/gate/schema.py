"""The published JSON Schema of what is signed. ``python -m envbuild.gate.schema`` prints it.

The shape follows from the types that read a verdict, the texts from :mod:`envbuild.gate.schematexts`. It is written
here and not by ``msgspec.json.schema``, whose output differs from release to release.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from envbuild.gate.schematexts import FIELDS, TYPES
from envbuild.gate.statement import Statement

Schema = dict[str, Any]

_PLAIN: Final[dict[object, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    NoneType: {"type": "null"},
    Any: {},
}
_LIMITS: Final = {"ge": "minimum", "le": "maximum", "max_length": "maxLength", "pattern": "pattern"}
"""The limits that fields have, by msgspec's names and JSON Schema's."""


def verdict_schema() -> Schema:
    """JSON Schema (2020-12) of the signed payload, made from the types that read it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "envbuild verdict",
        "description": "The payload of a verdict's DSSE envelope: an in-toto test result. "
        "The verdict itself is predicate.envbuild.",
        "$ref": _reference(Statement),
        "$defs": {struct.__name__: _definition(struct) for struct in structs(Statement)},
    }


def schema_text() -> str:
    """The file's content: docs/reference/verdict.schema.json."""
    return json.dumps(verdict_schema(), indent=1, ensure_ascii=False) + "\n"


def structs(first: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """``first`` and every struct that a field of it leads to, in the order in which they are met."""
    found = [first]
    for struct in found:
        for field in msgspec.structs.fields(struct):
            found += [other for other in _structs_in(field.type) if other not in found]
    return found


def _structs_in(type_: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        yield type_
    for part in get_args(type_):
        yield from _structs_in(part)


def _reference(struct: type[msgspec.Struct]) -> str:
    return f"#/$defs/{struct.__name__}"


def _definition(struct: type[msgspec.Struct]) -> Schema:
    fields = msgspec.structs.fields(struct)
    texts = FIELDS[struct.__name__]
    properties = {}
    for field in fields:
        properties[field.encode_name] = {"description": texts[field.encode_name], **_of_type(field.type)}
        if not field.required:
            properties[field.encode_name]["default"] = field.default
    title, description = TYPES[struct.__name__]
    return {
        "title": title,
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [field.encode_name for field in fields if field.required],
        "additionalProperties": not struct.__struct_config__.forbid_unknown_fields,
    }


def _of_type(type_: Any) -> Schema:
    """The schema of one annotation. A kind of type that no verdict has yet is an error here, not a guess."""
    if type_ in _PLAIN:
        return dict(_PLAIN[type_])
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return {"$ref": _reference(type_)}
    return _of_parts(type_, get_origin(type_), get_args(type_))


def _of_parts(type_: Any, origin: Any, parts: tuple[Any, ...]) -> Schema:
    if origin is Literal:
        return {"const": parts[0]} if len(parts) == 1 else {"enum": sorted(parts)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of_type(part) for part in parts]}
    if origin is Annotated:
        return {**_of_type(parts[0]), **_limits(parts[1])}
    if origin is dict:
        return {"type": "object", **_of_entries(*parts)}
    if origin is tuple:
        return {"type": "array", **_of_items(parts)}
    raise TypeError(f"no JSON Schema is known for {type_!r}")


def _limits(meta: msgspec.Meta) -> Schema:
    """What a field may hold beyond its type."""
    limits = {name: getattr(meta, attribute) for attribute, name in _LIMITS.items()}
    return {name: value for name, value in limits.items() if value is not None}


def _of_entries(key: Any, value: Any) -> Schema:
    names, values = {k: v for k, v in _of_type(key).items() if k != "type"}, _of_type(value)
    return {
        **({"propertyNames": names} if names else {}),
        **({"additionalProperties": values} if values else {}),
    }


def _of_items(parts: tuple[Any, ...]) -> Schema:
    if parts[-1] is Ellipsis:
        return {"items": _of_type(parts[0])}
    prefix = [_of_type(part) for part in parts]
    return {"prefixItems": prefix, "items": False, "minItems": len(parts), "maxItems": len(parts)}


if __name__ == "__main__":
    sys.stdout.write(schema_text())
