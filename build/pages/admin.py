"""docs/reference/admin.md: every page of the admin socket, described by its function's docstring."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.admin.api import ACTIONS, HEALTH, SCRAPED, VIEWED, VIEWS
from agent.config.schema import SOCKET
from pages import HEAD
from pages.fields import cell, doc

INTRODUCTION = f"""# The admin socket

A Unix socket, `{SOCKET}` unless the NodeConfig says otherwise, which only root may open. It speaks HTTP/1.1; answers are JSON.
The commands of `edgemesh` ask it, and so may you:

    box# curl -s --unix-socket {SOCKET} http://edgemesh/status

A page that fails answers `{{"error": ..., "hint": ...}}` with a status that says so.

"""


def pages() -> Mapping[str, str]:
    text = f"{HEAD}{INTRODUCTION}## To read (GET)\n\n{_table(VIEWS)}"
    text += f"\nOver TCP, at `metricsAddress` of the NodeConfig, only {' and '.join(f'`{path}`' for path in SCRAPED)} are served, to whoever"
    text += " shows the bearer token of `metricsTokenFile`. Without the token `/ready` gives its status, and nothing else is told.\n"
    text += f"\n## For a kubelet (GET)\n\nAt `healthAddress` of the NodeConfig, without a token, and nowhere else.\n\n{_table(HEALTH)}"
    text += f"\nIn a cluster {', '.join(f'`{path}`' for path in VIEWED)} are read through the API server too (`pods/proxy`, port `kubernetes.door`)"
    text += " with a token of the ServiceAccount edgemesh-viewer that is made for this node, as `edgemesh status --all-nodes` does it.\n"
    text += f"\n## To change something (POST)\n\nOn the socket only.\n\n{_table(ACTIONS)}"
    return {"reference/admin.md": text}


def _table(views: Mapping[str, Callable[..., object]]) -> str:
    rows = "".join(f"| `{path}` | {cell(' '.join(doc(view).split()))} |\n" for path, view in views.items())
    return f"| page | what it tells |\n|---|---|\n{rows}"
