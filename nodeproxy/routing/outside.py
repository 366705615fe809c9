"""Whether a call of a local workload may leave the mesh, and what has to be known of it first.

Where an Egress goes by host, the bytes decide: the Host of each request, or the server name of TLS, which is not
opened. Either counts only with an address that DNS gave this workload for that name (ties.py).
"""

from __future__ import annotations

import ipaddress
from functools import partial

import trio

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Unsettled
from policy.authz import DENIALS, ISOLATED
from policy.egress import named
from policy.model import Endpoint, Identity, Outgoing, Protocol, Request, Verdict

_MOST = 64  # names of one connection that are remembered


def protocol_outside(conn: Conn) -> Protocol:
    """Return the protocol by which a connection to an address outside the mesh is served, "" to find it out.

    It is relayed unseen where nothing that it says matters: it passes in any case, or in none.
    """
    return "" if conn.context.snapshot.looks_outside(_identity(conn), *conn.dialled) else "tcp"


class Outside:
    """Decides what of one connection may leave the mesh, by the newest snapshot."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        # A connection lives longer than what DNS said when it was opened
        self._verified: set[str] = set()

    def rule(self, request: Request | None) -> str:
        """Return the rule that lets this out. Raise Refused. `request` None: TLS, or an opaque stream."""
        verdict = self.verdict(request)
        if verdict.allowed:
            return verdict.rule
        words = f"{verdict.reason}: {DENIALS[verdict.reason]}{self._more(verdict, request)}"
        detail = f"{Endpoint(*self._conn.dialled)} {words}"
        if verdict.reason == "egress-untied":
            raise Unsettled(
                "egress-denied", detail, partial(self._look_up, named(self._call(request).host, self._conn.dialled[1]))
            )
        raise Refused("egress-denied", detail)

    async def _look_up(self, host: str) -> bool:
        """Ask for the host's addresses, as the caller did at some time: before a restart, or too long ago.

        Many programs ask for a name only once. Return whether it has the dialled address.
        """
        conn = self._conn
        ask = conn.context.lookups.get(conn.workload.key)
        if ask is not None:
            await ask(host, 28 if ":" in conn.dialled[0] else 1)
        return self._tied(host)

    def verdict(self, request: Request | None) -> Verdict:
        conn = self._conn
        caller = conn.context.snapshot.workload(conn.workload.key)
        if caller is not None and caller.isolated:
            return ISOLATED
        return conn.context.snapshot.lets_out(_identity(conn), self._call(request), self._tied)

    def _call(self, request: Request | None) -> Outgoing:
        address, port = self._conn.dialled
        hello = self._conn.hello
        if request is not None:
            return Outgoing(address, port, "http", request.header("host") or "", request)
        if hello is not None:
            return Outgoing(address, port, "https", "" if hello.ech else hello.sni)
        return Outgoing(address, port)

    def _tied(self, host: str) -> bool:
        conn = self._conn
        address = conn.dialled[0]
        if host in self._verified:
            return True
        ties = conn.context.ties.get(conn.workload.key)
        found = _same(host, address) or (ties is not None and ties.has(host, address, trio.current_time()))
        if found and len(self._verified) < _MOST:
            self._verified.add(host)
        return found

    def _more(self, verdict: Verdict, request: Request | None) -> str:
        """Return what a person needs to know beside the reason."""
        conn = self._conn
        call = self._call(request)
        if verdict.reason == "egress-untied":
            ties = conn.context.ties.get(conn.workload.key)
            asked = f"; it asks {ties.distrusted}, which is not one of them" if ties and ties.distrusted else ""
            return f" ({call.host}{asked})"
        if verdict.reason == "egress-no-name" and conn.hello is not None:
            return " (the server name is encrypted: ECH)" if conn.hello.ech else " (TLS without a server name)"
        if verdict.reason in ("egress-host", "egress-address"):
            return f" ({call.host})"
        return f" ({call.protocol})" if verdict.reason == "egress-port" else ""


def _identity(conn: Conn) -> Identity | None:
    caller = conn.context.snapshot.workload(conn.workload.key)
    return caller.identity if caller else None


def _same(host: str, address: str) -> bool:
    """Return whether a host is this address itself."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(address)
    except ValueError:
        return False
