"""Plain data -> a Resource, a Problem, or Unread for a kind that is not in KINDS (registry.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from policy import unknown
from policy.faults import MOST, Fault, faults
from policy.kinds.base import Metadata
from policy.model import Problem, Where
from policy.near import did_you_mean
from policy.registry import ELSEWHERE, KINDS, row_name
from policy.resources import RawObject, Resource, plain


class Unread(Struct, frozen=True):
    """An object of a kind that edgemesh does not read."""

    group: str
    kind: str
    where: Where
    lacking: str = ""  # what the object requests and edgemesh does not do


_LISTS = frozenset(("List", *(f"{plain(kind)}List" for kind in KINDS)))
_DEEPEST = 8  # lists inside lists; kubectl writes one level


def unwrap(raws: Iterable[RawObject]) -> Iterable[RawObject]:
    """Yield the objects, with the items of each `kind: List` yielded separately.

    An item that is no object is yielded as an object without a kind, and is reported as that.
    """
    for raw in raws:
        if _is_list(raw.data):
            yield from _items(raw, raw.data, "$", _DEEPEST)
        else:
            yield raw


def _items(raw: RawObject, data: Mapping[str, Any], path: str, deeper: int) -> Iterable[RawObject]:
    for number, item in enumerate(data.get("items") or ()):
        at = f"{path}.items[{number}]"
        found = item if isinstance(item, dict) else {}
        if deeper and _is_list(found):
            yield from _items(raw, found, at, deeper - 1)
        else:
            yield RawObject(found, Where(raw.where.file, raw.line(at)), _Shifted(raw, at))


def _is_list(data: Mapping[str, Any]) -> bool:
    kind = data.get("kind")
    return isinstance(kind, str) and kind in _LISTS and isinstance(data.get("items"), list | None)


class _Shifted(dict[str, int]):
    """The line numbers of an object inside a List."""

    def __init__(self, raw: RawObject, prefix: str) -> None:
        super().__init__()
        self._raw, self._prefix = raw, prefix

    def __missing__(self, path: str) -> int:
        return self._raw.line(self._prefix + path[1:])


def decode(raw: RawObject) -> Resource[Any] | Unread | Problem | None:
    """Check one object against the shape of its kind. Never raise, whatever the data is.

    Return None for a kind that another package reads (NodeConfig).

    Return a Problem for the first fault; `wrong_with` returns all faults.
    """
    data = raw.data
    kind_name, api_version = data.get("kind"), data.get("apiVersion")
    if not isinstance(kind_name, str) or not isinstance(api_version, str) or not kind_name or not api_version:
        return wrong_with(raw)[0]
    group, _, version = api_version.rpartition("/")
    if f"{group}/{kind_name}" in ELSEWHERE:
        return None
    name = row_name(group, kind_name)
    kind = KINDS.get(name)
    if kind is None or group not in (kind.group, *kind.also):
        stranger = _stranger(data)
        return wrong_with(raw)[0] if stranger.error else Unread(group, kind_name, raw.where, stranger.lacking)
    try:
        metadata = msgspec.convert(data.get("metadata", {}), Metadata)
        spec = msgspec.convert(data if kind.whole else (data.get("spec") or {}), kind.spec)
        status = None if kind.status is None else msgspec.convert(data.get("status") or {}, kind.status)
    except msgspec.ValidationError:
        return wrong_with(raw)[0]
    if version not in kind.versions or _bad_names(metadata) or (kind.strict and _stray(data)):
        return wrong_with(raw)[0]
    namespace = (metadata.namespace or "default") if kind.namespaced else ""
    return Resource(name, version, namespace, metadata.name, metadata, spec, status, raw)


def wrong_with(raw: RawObject) -> list[Problem]:
    """Return every fault in the shape of an object for which `decode` returned a Problem."""
    data = raw.data
    kind_name, api_version = data.get("kind"), data.get("apiVersion")
    title = f"{_row(data)} {_name(data)}" if isinstance(kind_name, str) and kind_name else _name(data)
    absent = [
        name
        for name, value in (("apiVersion", api_version), ("kind", kind_name))
        if not isinstance(value, str) or not value
    ]
    if absent:
        message = f"an object without {' and '.join(absent)}"
        return [
            Problem(
                "error",
                raw.where,
                "" if title.endswith("?") else title,
                message,
                "every object begins with apiVersion and kind",
            )
        ]
    group, _, version = str(api_version).rpartition("/")
    kind = KINDS.get(row_name(group, str(kind_name)))
    found: list[Fault] = []
    if kind is None or group not in (kind.group, *kind.also):
        stranger = _stranger(data)
        found.append(("$.kind", stranger.error, stranger.hint))
    elif version not in kind.versions:
        known = ", ".join(f"{group}/{v}".lstrip("/") for v in kind.versions)
        found.append(("$.apiVersion", f"version {version} of {kind_name} is not read", f"write {known}"))
    else:
        wrong = faults(data.get("metadata", {}), Metadata, "$.metadata")
        found += wrong or _bad_names(msgspec.convert(data.get("metadata", {}), Metadata))
        fields = kind.spec.__struct_encode_fields__
        for name in _stray(data) if kind.strict else ():
            near = did_you_mean(name, _TOP)
            found.append(
                (f"$.{name}", f"unknown field {name}", f"write it under spec: spec.{name}" if name in fields else near)
            )
        found += faults(data if kind.whole else (data.get("spec") or {}), kind.spec, "$" if kind.whole else "$.spec")
        if kind.status is not None:
            found += faults(data.get("status") or {}, kind.status, "$.status")
    return [
        Problem("error", Where(raw.where.file, raw.line(path)), title, message, hint) for path, message, hint in found
    ]


_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


def _stray(data: Mapping[str, Any]) -> list[str]:
    return list(itertools.islice((name for name in data if name not in _TOP), MOST))


def _bad_names(metadata: Metadata) -> list[Fault]:
    found = [] if metadata.name else [("$.metadata", "no metadata.name", "every object has a name")]
    for name, value in (("name", metadata.name), ("namespace", metadata.namespace)):
        if "/" in value:  # "namespace/name" names an object everywhere, and must name only one
            found.append((f"$.metadata.{name}", f"metadata.{name} is {value!r}", "names have no slash"))
    return found


def identify(raw: RawObject) -> tuple[str, str, str]:
    """Return (row of KINDS, namespace, name) of an object that may be broken: its last good version can stay in force.

    If the kind is misspelt, return the kind that was probably meant.
    """
    kind_name = _meant(raw.data)
    namespace, _, name = _name(raw.data).rpartition("/")
    return kind_name, namespace, name


def _stranger(data: Mapping[str, Any]) -> unknown.Stranger:
    group, _, version = str(data.get("apiVersion")).rpartition("/")
    return unknown.look(group, version, str(data.get("kind")))


def _meant(data: Mapping[str, Any]) -> str:
    kind_name = data.get("kind")
    if not isinstance(kind_name, str):
        return ""
    name = _row(data)
    return name if name in KINDS else (_stranger(data).meant or kind_name)


def _row(data: Mapping[str, Any]) -> str:
    """Return the name that the row of this kind and group has, if there is one."""
    return row_name(str(data.get("apiVersion")).rpartition("/")[0], str(data.get("kind")))


def _name(data: Mapping[str, Any]) -> str:
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    kind = KINDS.get(_meant(data))
    if kind is not None and not kind.namespaced:
        return str(name or "?")
    return f"{namespace or 'default'}/{name or '?'}"
