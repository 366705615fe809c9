"""certs: which certificates this node holds, until when, what keeps them from being renewed, and whom it believes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from agent.admin import client
from agent.commands import NO, OK, UNREACHABLE, terminal
from agent.config import SOCKET, environment

Document = dict[str, Any]

_STYLES = {"fresh": "green", "waiting": "yellow", "stale": "yellow", "expired": "bold red", "refused": "bold red"}
_OFFSET = 1.0  # seconds that the clock may differ without a word


def certs(arguments: Namespace) -> int:
    """1 when a certificate that is wanted is not there."""
    try:
        document = client.get(arguments.socket or environment().socket or SOCKET, "/certs")
    except client.Unreachable as error:
        terminal.complain(str(error))
        return UNREACHABLE
    except client.Answered as answered:
        terminal.complain(answered.error, answered.hint)
        return NO
    if arguments.output == "json":
        terminal.print_json(document)
    else:
        console = terminal.console()
        for renderable in shown(document):
            console.print(renderable)
    return NO if any(item["wanted"] and (item["expires_in_seconds"] or 0) <= 0 for item in document["certificates"]) else OK


def shown(document: Document) -> Iterable[Any]:
    """The document of /certs (agent/identity/concerns.py), for people."""
    from rich.text import Text

    from agent.commands.tables import Rows, duration

    if not document["node"]:
        yield "this node stands alone: edgemesh join enrols it in a mesh"
    else:
        yield f"node {document['node']} of {document['trust_domain'] or 'a mesh whose authority has not answered yet'}"
        yield ""
        rows = Rows("identity", "state", "expires in", "asked again in", "serial", "last error", prose=True)
        for item in document["certificates"]:
            ends, asked = item["expires_in_seconds"], item["asked_in_seconds"]
            rows.add(
                Text(item["identity"], style="bold"),
                Text(item["state"], style=_STYLES.get(item["state"], "")) if item["wanted"] else Text("not wanted any more", style="dim"),
                "" if ends is None else duration(ends) if ends > 0 else Text("over", style="bold red"),
                "" if asked is None else duration(asked) if asked else "now",
                item["serial"],
                ": ".join(filter(None, (item["error"], item["hint"]))),
            )
        yield rows
        yield ""
        for root in document["roots"]:
            yield f"root {root['fingerprint']}{', which signs' if root['issuing'] else ''}"
        if document["authority"]["error"]:
            yield Text(
                f"the authority is out of reach for {duration(document['authority']['silent_seconds'])}: {document['authority']['error']}"
            )
        ahead = document["clock"]["ahead_seconds"]
        if ahead is not None and abs(ahead) > _OFFSET:
            yield f"this node's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the authority's"
    for what, names in document["revoked"].items():
        if names:
            yield f"revoked {what}: {', '.join(names)}"
