"""Pages for those who come through a cluster's API server (`pods/proxy`): to read only, over TLS.

Theory of operation. It listens at the address by which the API server knows this daemon's pod, so it is asked for that
address first; outside a pod nobody could come. The API server does not check our certificate, so any will do: the
node's, or one that we sign ourselves until the node has one. Nobody who connects has proved anything before the first
request's token was checked (agent/admin/viewers.py), so connections are bounded in number, for each source and
together, and in time.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import trio

from agent.admin.api import viewed
from agent.admin.daemon import Daemon
from agent.admin.listener import AdminSocket
from agent.admin.viewers import Viewers, reviewer
from agent.config.schema import NodeConfig
from agent.config.settings import environment
from agent.daemon.tcp_port import TcpPort
from agent.http.server import converse
from agent.system.fd_store import FdStore
from nodeproxy.errors import Refused
from nodeproxy.stream import abort, close_now
from nodeproxy.tls.contexts import Context
from nodeproxy.tls.credentials import Credentials
from nodeproxy.tls.handshake import accept_anyone
from nodeproxy.tls.unauthenticated import Anteroom
from policy.model import Problem, Where

if TYPE_CHECKING:  # a node without a cluster need not load it
    from agent.kubernetes.api import ApiServer

log = logging.getLogger("edgemesh.door")

NAMESPACE = "edgemesh-system"
_MOST, _OF_SOURCE = 32, 16  # connections at once, and of one source
_HANDSHAKE = 5.0  # seconds
_LONGEST = 60.0  # seconds that a connection may last, busy or not
_AGAIN = 5.0  # seconds until the API server is asked again for our address
_YEARS = 10  # of a certificate that nobody checks


class ClusterDoor:
    """NodeConfig kubernetes.door."""

    name = "the pages for the cluster"

    def __init__(self, config: NodeConfig, kept: FdStore, admin: AdminSocket) -> None:
        self._number = config.kubernetes.door
        self._kept = kept
        self._port: TcpPort | None = None
        self._unknown = ""  # why we do not know our pod's address
        self._anteroom = Anteroom(_MOST, _OF_SOURCE)
        self._context: Context | None = None
        self._making = trio.Lock()  # a certificate of our own

    def problems(self) -> Iterator[Problem]:
        if self._unknown:
            message = f"nobody can read this node's pages through the API server: {self._unknown}"
            hint = "edgemesh status on the node itself works; it is tried again"
            yield Problem("notice", Where(), "NodeConfig kubernetes.door", message, hint)
        if self._port is not None:
            yield from self._port.problems()

    async def serve(self, daemon: Daemon, conversations: trio.Nursery) -> None:
        said, api = environment(), daemon.api
        if api is None or not self._number or not said.pod:
            return
        namespace = said.namespace or NAMESPACE
        address = await self._address(api, namespace, said.pod)
        where = f"[{address}]:{self._number}" if ":" in address else f"{address}:{self._number}"
        self._port = TcpPort("door", "kubernetes.door", where, self._kept)
        listener = await self._port.listener((address, self._number))
        viewers = Viewers(daemon.config.node, namespace, reviewer(api))
        await trio.serve_listeners(
            partial(self._enter, daemon=daemon, viewers=viewers), [listener], handler_nursery=conversations
        )

    async def _address(self, api: ApiServer, namespace: str, pod: str) -> str:
        """Return the address by which the API server knows our pod."""
        from agent.kubernetes.api import ApiError, ApiUnreachable, path_of

        while True:
            try:
                found = await api.get(path_of("v1", "pods", namespace, pod))
                if address := (found.get("status") or {}).get("podIP"):
                    self._unknown = ""
                    return str(address)
                self._unknown = f"pod {namespace}/{pod} has no address yet"
            except (ApiError, ApiUnreachable) as error:
                self._unknown = str(error)
            await trio.sleep(_AGAIN)

    async def _enter(self, stream: trio.SocketStream, daemon: Daemon, viewers: Viewers) -> None:
        """Serve one connection from its first byte to its end."""
        try:
            source = str(stream.socket.getpeername()[0])
            if not self._anteroom.admits(source, False, trio.current_time()):
                abort(stream)
                return
            with self._anteroom.waits(source, False), trio.move_on_after(_LONGEST):
                tls = await accept_anyone(stream, await self._secrets(daemon), _HANDSHAKE)
                try:
                    await converse(tls, viewed(daemon, viewers, source))
                finally:
                    close_now(tls)
        except (Refused, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            abort(stream)
        except Exception:  # it must not reach the nursery, where it would end the node's traffic
            log.exception("a connection broke off")
            abort(stream)
        finally:
            close_now(stream)

    async def _secrets(self, daemon: Daemon) -> Context:
        """Return what we show as a TLS server: the node's certificate, else one of our own."""
        held = daemon.keeper.node() if daemon.keeper is not None else None
        if held is None:
            async with self._making:
                if self._context is None:
                    held = await trio.to_thread.run_sync(_self_signed, daemon.config.node)
                    self._context = Context(True, held, None, (), False)
                return self._context
        if self._context is None or self._context.made_of[0] != held:
            self._context = Context(True, held, None, (), False)
        return self._context


def _self_signed(node: str) -> Credentials:
    from agent.identity.authority import ca

    made = ca.make_root(node, time.time(), ca.serial(secrets.token_bytes(16)), _YEARS)
    chain = "\n".join(made.certificates).encode()
    return Credentials(f"nobody, for the pages of {node}", chain, made.key, "", made.not_before, made.not_after)
