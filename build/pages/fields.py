"""A msgspec structure as a table of its fields.

A field's meaning is the comment at its end or above it, so that it is written once.
"""

from __future__ import annotations

import inspect
import io
import sys
import tokenize
import typing
from collections.abc import Iterator
from types import NoneType, UnionType

import msgspec

COLUMNS = "| field | type | default | meaning |\n|---|---|---|---|\n"


def comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the comment behind each field in the source, or on the lines above it."""
    return commented(inspect.getsource(struct), struct.__struct_fields__)


def commented(source: str, names: typing.Container[str]) -> dict[str, str]:
    """Return the comments of the `NAME: type` lines of a class's source."""
    found: dict[str, str] = {}
    above: list[str] = []
    name = ""
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.line.strip()
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        if (
            token.type == tokenize.NAME
            and not name
            and not depth
            and token.string in names
            and line.startswith(f"{token.string}:")
        ):
            name = token.string
        elif token.type == tokenize.COMMENT:
            if name or line.startswith("#"):
                above.append(token.string.lstrip("# "))
        elif token.type == tokenize.NEWLINE:
            if name:
                found[name] = " ".join(above)
            name, above = "", []
    return found


def doc(thing: object) -> str:
    """Return the docstring as Markdown. The program ends when there is none."""
    text = getattr(thing, "__doc__", None)
    if not text:
        sys.exit(f"build/reference: {getattr(thing, '__qualname__', thing)} has no docstring that says what it is")
    return inspect.cleandoc(text)


def shown(kind: object) -> str:
    """Return a type in words for people."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return shown(arguments[0]) + bounds(arguments[1:])
    if origin is typing.Literal:
        return " or ".join(f"`{word}`" for word in arguments)
    if origin in (UnionType, typing.Union):
        return " or ".join(shown(kind) for kind in arguments if kind is not NoneType)
    if origin is tuple:
        return f"list of {shown(arguments[0])}"
    if origin is dict:
        return f"map of {shown(arguments[0])} to {shown(arguments[1])}"
    if kind is typing.Any:
        return "anything"
    names = {str: "text", int: "number", float: "number", bool: "true or false"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))  # type: ignore[call-overload]


def bounds(extra: tuple[object, ...]) -> str:
    said = []
    for meta in extra:
        if isinstance(meta, msgspec.Meta):
            low = f"from {meta.ge}" if meta.ge is not None else f"more than {meta.gt}" if meta.gt is not None else ""
            high = f"to {meta.le}" if meta.le is not None else ""
            some = ", not empty" if meta.min_length else ""
            said += [word for word in (low, high) if word]
            if some:
                return some
    return f" {' '.join(said)}" if said else ""


def default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "*required*"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value in (None, "", (), {}):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{msgspec.json.encode(value).decode()}`"


def inside(kind: object) -> type[msgspec.Struct] | None:
    """Return the structure of which a field holds one or a list."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for argument in typing.get_args(kind) if (found := inside(argument))), None)


def many(kind: object) -> bool:
    """Return whether a type is a list of structures; an optional structure is none."""
    return typing.get_origin(kind) is tuple or any(
        many(argument) for argument in typing.get_args(kind) if argument is not NoneType
    )


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def rows(
    struct: type[msgspec.Struct], path: str = "", live: frozenset[str] | None = None, lively: bool = False
) -> Iterator[str]:
    """Yield the rows of a structure and of those inside it. The program ends at a field without a meaning."""
    said = comments(struct)
    for field in msgspec.structs.fields(struct):
        at = f"{path}{field.encode_name}"
        here = lively or (live is not None and field.name in live)
        nested = inside(field.type)
        if nested is None:
            if not said.get(field.name):
                sys.exit(f"build/reference: {struct.__name__}.{field.name} has no comment that says what it means")
            meaning = f"{said[field.name]}{'; *live*' if here else ''}"
            yield f"| `{at}` | {cell(shown(field.type))} | {default(field)} | {cell(meaning)} |"
            continue
        listed = many(field.type)
        if said.get(field.name) or field.required:
            needed = "*required*" if field.required else ""
            yield f"| `{at}` | {'list' if listed else 'map'} | {needed} | {cell(said.get(field.name, ''))} |"
        yield from rows(nested, f"{at}{'[]' if listed else ''}.", live, here)


def table(struct: type[msgspec.Struct], path: str = "", live: frozenset[str] | None = None) -> str:
    return COLUMNS + "\n".join(rows(struct, path, live)) + "\n"
