"""Knocks at a tunnel door, for bench_nodes.py: with the certificates of a node's own state directory, as nobody else could.

    knocker.py STATE handshakes N      N connections one after the other
    knocker.py STATE connections N     N at once, held until the standard input ends
    knocker.py STATE streams N         N tunnels at once, on as few connections as they need, held in the same way
    knocker.py - handshakes N          without STATE: with an outside certificate, to the door of another program

Prints "ready" when they are open.
"""

from __future__ import annotations

import ssl
import sys
import time
from pathlib import Path

import trio

from agent.identity.node.store import IdentityStore
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls.credentials import Trust

SPIFFE, NODE = "spiffe://cluster.local/ns/bench/sa/client", "spiffe://cluster.local/node/n2"
DOOR = ("10.78.0.2", 15008)
PER_CONNECTION = 100


async def main(state: str, what: str, count: int) -> None:
    vault = IdentityStore(Path(state))
    _, bundle, pairs = vault.load()
    assert bundle is not None
    trust = Trust(bundle.trust_domain, "".join(bundle.roots).encode())
    credentials = next(pair.credentials for pair in pairs if pair.credentials.spiffe == SPIFFE)
    context = contexts.Contexts().client(credentials, trust, contexts.ALPN_TUNNEL)

    async def dial() -> handshake.Secured:
        return await handshake.connect(await trio.open_tcp_stream(*DOOR), context, trust, {NODE}, 10, time.time)

    if what == "handshakes":
        for _ in range(count):
            secured = await dial()
            await secured.stream.receive_some()  # its SETTINGS: only then it has believed us
            secured.stream.close()
        return
    async with trio.open_nursery() as nursery:
        held = []
        for number in range(count if what == "connections" else -(-count // PER_CONNECTION)):
            connection = Connection((await dial()).stream, True, Bounds(), str(number))
            nursery.start_soon(connection.run)
            while not connection.room():
                await trio.sleep(0.01)
            held.append(connection)
        if what == "streams":
            for number in range(count):
                channel = await held[number // PER_CONNECTION].open(
                    [(b":method", b"CONNECT"), (b":authority", b"10.78.2.2:81")]
                )
                head, _ = await channel.head()
                assert head[0] == (b":status", b"200"), head
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


def outside(address: tuple[str, int], folder: Path, count: int) -> None:
    """The same handshakes with another program's door."""
    import socket

    context = ssl.create_default_context(cafile=str(folder / "c.pem"))
    context.load_cert_chain(folder / "c.pem", folder / "k.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    for _ in range(count):
        with context.wrap_socket(socket.create_connection(address), server_hostname="n2") as sock:
            sock.recv(100)


if __name__ == "__main__":
    if sys.argv[1] == "-":
        outside(("10.78.0.2", 8443), Path(sys.argv[4]), int(sys.argv[3]))
    else:
        trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
