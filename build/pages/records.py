"""docs/reference/access-log.md: every field of a line of the access log.

The meaning of a field that the record has too is the comment in the record. Any other field has its comment where the
line is made, behind it or above it.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from typing import get_args

from agent.telemetry import access_log
from nodeproxy.telemetry.record import Record
from pages import HEAD
from pages.fields import cell, comments

INTRODUCTION = """# The access log

One JSON object a line on the daemon's standard output (the journal, where systemd runs it), for each connection and each
request that ended. `accessLog` of the NodeConfig says which: {modes}. `failed` is the default: denials, and what edgemesh
answered with 5xx. Of a request's header it holds the host and the trace ID; it never holds a query string or a body. A
flood is bounded: lines that were left out are counted by a line `{{"kind": "suppressed", "lines": N}}`.

| field | meaning |
|---|---|
"""


def pages() -> Mapping[str, str]:
    modes = ", ".join(f"`{mode}`" for mode in get_args(access_log.Mode))
    rows = "".join(f"| `{name}` | {cell(meaning)} |\n" for name, meaning in _fields().items())
    return {"reference/access-log.md": HEAD + INTRODUCTION.format(modes=modes) + rows}


def _fields() -> Mapping[str, str]:
    said = comments(Record)
    source = inspect.getsource(access_log.line)
    (returned,) = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Return))
    assert isinstance(returned, ast.Dict)
    lines = source.splitlines()
    found: dict[str, str] = {}
    for key in returned.keys:
        assert key is not None
        name = ast.literal_eval(key)
        above = lines[key.lineno - 2].strip()
        comment = lines[key.lineno - 1].partition("  # ")[2] or (above[2:] if above.startswith("# ") else "")
        found[name] = comment or said.get(name, "")
        if not found[name]:
            sys.exit(f"build/reference: nothing says what {name} is in the access log")
    return found
