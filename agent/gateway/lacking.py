"""What this node lacks for the listeners of its Gateways: a port that somebody has, a certificate that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.gateway.content import Ref
from agent.gateway.keeper import Keeper, named_by
from policy.gateway import Condition, Listener
from policy.model import Problem, Where

Closed = Mapping[tuple[str, int], str]  # by address and port: why nothing listens there


def lacking(listeners: Sequence[Listener], closed: Closed, keeper: Keeper) -> dict[str, Condition]:
    """Return, by key of a listener, the condition that does not hold for it."""
    found: dict[str, Condition] = {}
    for one in listeners:
        faults = [(ref, why) for ref in named_by(one) if (why := keeper.fault(ref)[0])]
        if faults:
            found[one.key] = _unresolved(*faults[0])
        elif whys := _closed(one, closed):
            (address, port), why = whys[0]
            found[one.key] = Condition("Programmed", False, "PortUnavailable", f"port {port} of {address}: {why}")
    return found


def _unresolved(ref: Ref, why: str) -> Condition:
    reason = "InvalidCertificateRef" if ref.kind == "Secret" else "InvalidCACertificateRef"
    return Condition("ResolvedRefs", False, reason, f"{ref} cannot be used: {why}")


def _closed(listener: Listener, closed: Closed) -> list[tuple[tuple[str, int], str]]:
    return [
        (place, why)
        for place, why in sorted(closed.items())
        if place[1] == listener.port and (not listener.addresses or place[0] in listener.addresses)
    ]


def problems(listeners: Sequence[Listener], closed: Closed) -> Iterable[Problem]:
    """Yield a Problem for each listener that is closed at an address of this node."""
    for one in listeners:
        for (address, port), why in _closed(one, closed):
            message = f"listener {one.name} is closed at {address} port {port}: {why}"
            hint = "stop what listens there, or give the listener another port; it is tried again every few seconds"
            yield Problem("error", Where(), one.source, message, hint)
