"""One manifest file: its bytes -> the objects in it, or Problems with line, column and advice."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from agent.sources import Change
from agent.sources.nodes import Budget, Fault, Node, objects
from policy.model import Problem, Where
from policy.resources import RawObject

_NO_MANIFEST = "is no manifest: not one object in it has a kind"
_NO_MANIFEST_HINT = (
    "was it replaced by something else, an error page for instance? what it said before, if anything, still holds"
)
_CUT_HINT = "what it said before still holds; copy it again, or end the line, if it is meant so"
_OBJECT_HINT = "a mapping with apiVersion, kind and metadata is expected"
MAX_BYTES = 8 * 1024 * 1024  # bytes of one file; an object in a cluster's etcd has 1.5 MiB at most

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read(data: bytes, origin: str, rest: bool = False) -> Change:
    """Parse a file. Never raises, whatever the bytes are.

    A file that is not well-formed says nothing new at all: no half of it takes effect. The same holds for a file that
    is well-formed and no manifest: HTML is a valid YAML string. `rest`: parse in slices, for a daemon's thread.
    """
    found: list[RawObject] = []
    problems: list[Problem] = []
    try:
        text = _decode(data)
        budget = Budget(rest=rest)
        for number, node in enumerate(_documents(origin, text, budget), 1):
            if not node.is_map:
                problems.append(
                    problem(origin, Fault(f"document {number} is not an object", node.line, hint=_OBJECT_HINT))
                )
                continue
            found += [RawObject(made, Where(origin, line), lines) for made, lines, line in objects(node, budget)]
    except Fault as fault:
        return Change(origin, None, (problem(origin, fault),))
    if (found or problems) and not any(_has_kind(raw) for raw in found):
        line = min([raw.where.line for raw in found] + [problem.where.line for problem in problems])
        return Change(origin, None, (problem(origin, Fault(_NO_MANIFEST, line, hint=_NO_MANIFEST_HINT)),))
    return Change(origin, tuple(found), tuple(problems))


def _documents(origin: str, text: str, budget: Budget) -> Iterator[Node]:
    if origin.endswith(".json"):
        from agent.sources import json_documents

        return json_documents.documents(text, budget)
    from agent.sources import yaml_documents  # PyYAML is not for a pod, which reads no files

    return yaml_documents.documents(text, budget)


def _has_kind(raw: RawObject) -> bool:
    return any(isinstance(raw.data.get(name), str) and raw.data[name] for name in ("kind", "apiVersion"))


def cut_off(origin: str, data: bytes) -> Change:
    """Report a file that ends in the middle of a line of its former content."""
    fault = Fault(
        "is the beginning of what it was, and ends in the middle of a line", data.count(b"\n") + 1, hint=_CUT_HINT
    )
    return Change(origin, None, (problem(origin, fault),))


def gone(origin: str) -> Change:
    """Report a file that does not exist any more."""
    return Change(origin, (), gone=True)


def unreadable(origin: str, message: str, hint: str = "") -> Change:
    """Report a file that could not be read at all."""
    return Change(origin, None, (Problem("error", Where(origin), "", message, hint),))


def problem(origin: str, fault: Fault) -> Problem:
    column = f" (column {fault.column})" if fault.column else ""
    return Problem("error", Where(origin, fault.line), "", f"{fault.message}{column}", fault.hint)


def _decode(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark (YAML 1.1 section 5.2)."""
    if len(data) > MAX_BYTES:
        raise Fault(f"is larger than {MAX_BYTES // 1024 // 1024} MiB", 0, hint="split it")
    bom, encoding = next(((bom, name) for bom, name in _BOMS if data.startswith(bom)), (b"", "utf-8"))
    try:
        return data[len(bom) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, len(bom) + error.start) + 1
        raise Fault(f"is not {encoding.upper()} text", line, hint="save it as UTF-8") from error
