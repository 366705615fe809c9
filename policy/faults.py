"""Every fault of plain data that does not have the expected shape: each with its path, in plain words.

msgspec stops at the first fault of an object, which is fast. A person with six typing errors wants to see all six, so
this file walks the refused data again, part by part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from policy.near import did_you_mean, nearest

Fault = tuple[str, str, str]  # path, message, hint

MOST = 20  # faults reported per object
_NO_TEXT = re.compile(r"Expected `str(?: \| null)?`, got `(?:int|float|bool)`")
_LONGEST = 200  # characters shown of a path or a value
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def faults(value: object, kind: Any, path: str, elsewhere: Mapping[str, str] = {}) -> list[Fault]:
    """Return what keeps `value` from being a `kind`; [] if nothing does. `path`: where the value is, as in "$.spec".

    `elsewhere`: hints for fields that are unknown here but exist in another place.
    """
    found: list[Fault] = []
    for fault in _walk(value, kind, path, elsewhere):
        if len(found) == MOST:
            found.append((path, f"{_shown(path)} has more faults than these {MOST}", ""))
            break
        found.append(fault)
    return found


def _walk(value: object, kind: Any, path: str, elsewhere: Mapping[str, str]) -> Iterator[Fault]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        inside = False
        for fault in _inside(value, kind, path, elsewhere):
            inside = True
            yield fault
        if not inside:
            yield _told(value, kind, path, str(error).partition(" - at `")[0])


def _inside(value: object, kind: Any, path: str, elsewhere: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the faults of the parts of `value`, if it has parts and is of the right type."""
    for one in _options(kind):
        if isinstance(value, dict) and isinstance(one, type) and issubclass(one, Struct):
            yield from _fields(value, one, path, elsewhere)
        elif isinstance(value, dict) and get_origin(one) is dict:
            of_key, of_item = get_args(one)
            for key, item in value.items():
                yield from _walk(key, of_key, f"{path}.{key}", elsewhere)
                yield from _walk(item, of_item, f"{path}.{key}", elsewhere)
        elif isinstance(value, list) and get_origin(one) in (tuple, list):
            for number, item in enumerate(value):
                yield from _walk(item, get_args(one)[0], f"{path}[{number}]", elsewhere)


def _fields(value: dict[str, Any], kind: type[Struct], path: str, elsewhere: Mapping[str, str]) -> Iterator[Fault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, item in value.items():
        if key in fields:
            yield from _walk(item, fields[key].type, f"{path}.{key}", elsewhere)
        elif kind.__struct_config__.forbid_unknown_fields:
            yield unknown(key, f"{path}.{key}", tuple(fields), elsewhere)
    strays = [str(key) for key in value if key not in fields] if kind.__struct_config__.forbid_unknown_fields else []
    for name, field in fields.items():
        if field.required and name not in value:
            near = next((key for key in strays if did_you_mean(key, (name,))), None)
            if near is None:  # otherwise the misspelt field is already reported, with this name
                yield f"{path}.{name}", f"{_shown(path)}.{name} is missing".lstrip("."), ""


def unknown(key: object, path: str, fields: tuple[str, ...], elsewhere: Mapping[str, str] = {}) -> Fault:
    """Return the fault for an unknown field."""
    known = f"known here: {', '.join(fields)}" if fields else "it has no fields"
    return path, f"unknown field {_shown(path)}", did_you_mean(str(key), fields) or elsewhere.get(str(key), "") or known


def _options(kind: Any) -> Iterator[Any]:
    """Yield the member types of a union, without None and without annotations."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _options(get_args(kind)[0])
    elif origin is Union or type(kind).__name__ == "UnionType":
        for one in get_args(kind):
            yield from _options(one)
    elif kind is not type(None):
        yield kind


def _told(value: object, kind: Any, path: str, said: str) -> Fault:
    where = _shown(path)
    words = next((get_args(one) for one in _options(kind) if get_origin(one) is Literal), ())
    if words:
        near = nearest(str(value), words)
        return (
            path,
            f"{where}: {_value(value)} is not known",
            f"did you mean {near}?" if near else f"known are {', '.join(words)}",
        )
    if said.endswith("of length >= 1"):
        of = "an empty list" if isinstance(value, list) else "an empty mapping" if isinstance(value, dict) else "empty"
        return path, f"{where} is {of}", "name at least one, or leave it out" if of != "empty" else ""
    if _NO_TEXT.fullmatch(said):
        return path, f"{where}: expected text, got {_value(value)}", "write it in quotes"
    message = re.sub("`([a-z]+)`", lambda found: _WORDS.get(found[1], found[1]), said)
    message = message.replace("Expected", "expected").replace(" | nothing", "").replace(" | ", " or ")
    if isinstance(value, str | int | float):
        message = f"{message.partition(', got')[0]}, got {_value(value)}"
    return path, f"{where}: {message}", ""


def _shown(path: str) -> str:
    words = path.removeprefix("$").removeprefix(".")
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def _value(value: object) -> str:
    """Return the value as JSON writes it, shortened."""
    words = str(value).lower() if isinstance(value, bool) else repr(value)
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
