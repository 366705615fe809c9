"""The listeners of this node's Gateways as people see them: also those that are well."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from policy.entering import shown
from policy.gateway import Condition, Listener

State = Literal["open", "lacking", "elsewhere"]
_WILD = ("0.0.0.0", "::")


def listeners(
    them: Iterable[Listener],
    places: Collection[tuple[str, int]],
    here: Collection[str],
    lacks: Mapping[str, Condition],
) -> list[dict[str, Any]]:
    """Return a document of each listener.

    `places`: addresses and ports at which this node listens. `here`: all of its addresses. `lacks`: by key of a
    listener, what it lacks at this node (lacking.py).
    """
    return [_listener(one, _open(one, places, here), lacks.get(one.key)) for one in them]


def _listener(one: Listener, at: list[str], lacks: Condition | None) -> dict[str, Any]:
    state: State = "lacking" if lacks is not None else "open" if at else "elsewhere"
    return {
        "listener": one.key,
        "gateway": shown(one.gateway),
        "protocol": one.protocol,
        "port": one.port,
        "host": one.hostname,
        "open_at": at,
        "hosts": [host.hostname for host in one.hosts],
        "routes": sum(len(route.rules) for host in one.hosts for route in host.service.routes),
        "asks_for_certificates": one.clients is not None and not one.clients.optional,
        "state": state,
        "why": lacks.message if lacks is not None else "",
    }


def _open(one: Listener, places: Collection[tuple[str, int]], here: Collection[str]) -> list[str]:
    """Return the addresses at which a listener is open: a socket for all addresses of a family has those named, too."""
    at = {address for address, port in places if port == one.port}
    if not one.addresses:
        return sorted(at)
    wild = {":" in address for address in at if address in _WILD}
    return sorted(
        address for address in one.addresses if address in at or (address in here and (":" in address) in wild)
    )
