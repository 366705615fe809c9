"""certs: which certificates this node holds, until when, what prevents their renewal, and which roots it trusts."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from agent.commands import NO, OK, asking, views
from agent.commands.asking import View

Document = dict[str, Any]

_OFFSET = 1.0  # seconds that the clock may differ without a message


def arguments(parser: ArgumentParser) -> None:
    asking.arguments(parser, cluster=True)


@asking.saying
def run(arguments: Namespace) -> int:
    """Return 1 when a wanted certificate is missing."""
    return views.tell(arguments, View("/certs", shown, "certs", code))


def code(document: Document) -> int:
    """Return the exit code of one node's document."""
    return (
        NO
        if any(item["wanted"] and (item["expires_in_seconds"] or 0) <= 0 for item in document["certificates"])
        else OK
    )


def shown(document: Document) -> Iterable[Any]:
    """Yield the document of /certs (agent/identity/node/report.py), for people."""
    from rich.text import Text

    from agent.commands import tables
    from agent.commands.tables import CERTIFICATE, Rows, duration

    if not document["node"]:
        yield "this node has joined no mesh: edgemesh join enrols it"
    else:
        yield f"node {document['node']} of {document['trust_domain'] or 'a mesh whose authority has not answered yet'}"
        yield ""
        rows = Rows("identity", "state", "expires in", "asked again in", "serial", "last error", prose=True)
        for item in document["certificates"]:
            ends, asked = item["expires_in_seconds"], item["asked_in_seconds"]
            rows.add(
                Text(item["identity"], style="bold"),
                Text(item["state"], style=CERTIFICATE.get(item["state"], ""))
                if item["wanted"]
                else Text("not wanted any more", style="dim"),
                "" if ends is None else duration(ends) if ends > 0 else Text("expired", style="bold red"),
                "" if asked is None else duration(asked) if asked else "now",
                item["serial"],
                tables.awaited(item),
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
