"""One manifest file: its bytes -> the objects in it, or Problems with line, column and advice."""

from __future__ import annotations

import codecs

from agent.sources import Change, json_documents, yaml_documents
from agent.sources.nodes import Budget, Fault, objects
from policy.model import Problem, Where
from policy.resources import RawObject

_OBJECT_HINT = "a mapping with apiVersion, kind and metadata is expected"
MAX_BYTES = 8 * 1024 * 1024  # of one file; an object in a cluster's etcd has 1.5 MiB at most

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read(data: bytes, origin: str) -> Change:
    """Never raises, whatever the bytes are. A file that is not well-formed says nothing new at all: no half of it takes effect."""
    found: list[RawObject] = []
    problems: list[Problem] = []
    try:
        text = _decode(data)
        syntax = json_documents if origin.endswith(".json") else yaml_documents
        budget = Budget()
        for number, node in enumerate(syntax.documents(text), 1):
            if not node.is_map:
                problems.append(problem(origin, Fault(f"document {number} is not an object", node.line, hint=_OBJECT_HINT)))
                continue
            found += [RawObject(made, Where(origin, line), lines) for made, lines, line in objects(node, budget)]
    except Fault as fault:
        return Change(origin, None, (problem(origin, fault),))
    return Change(origin, tuple(found), tuple(problems))


def unreadable(origin: str, message: str, hint: str = "") -> Change:
    """A file that could not be read at all."""
    return Change(origin, None, (Problem("error", Where(origin), "", message, hint),))


def problem(origin: str, fault: Fault) -> Problem:
    column = f" (column {fault.column})" if fault.column else ""
    return Problem("error", Where(origin, fault.line), "", f"{fault.message}{column}", fault.hint)


def _decode(data: bytes) -> str:
    """UTF-8, or UTF-16 that says so with a byte order mark (YAML 1.1 section 5.2)."""
    if len(data) > MAX_BYTES:
        raise Fault(f"is larger than {MAX_BYTES // 1024 // 1024} MiB", 0, hint="split it")
    bom, encoding = next(((bom, name) for bom, name in _BOMS if data.startswith(bom)), (b"", "utf-8"))
    try:
        return data[len(bom) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, len(bom) + error.start) + 1
        raise Fault(f"is not {encoding.upper()} text", line, hint="save it as UTF-8") from error
