"""A workload with DNS doors on loopback, and the resolver that it asks."""

import socket
from types import SimpleNamespace

import dns.message
import pytest
import trio

from nodeproxy.capture import Ports
from nodeproxy.dns import Budget, Resolver, resolver
from policy.model import Host, Names, Service, ServicePort, Workload
from policy.snapshot import Snapshot

BUYER = Workload("bookbuyer", "buyer-1", "bookbuyer", ("127.0.0.1",))
SERVICES = (
    Service("bookstore", "bookstore", ("240.240.0.7",), (ServicePort("http", 80),)),
    Service("bookbuyer", "own", ("240.240.0.8",)),
)


NAMES = Names(
    aliases={"bookbuyer/out": "www.example.com", "bookbuyer/in": "bookstore.bookstore.svc.cluster.local"},
    hosts={"bookstore/db": (Host("db-0", ("10.42.0.1",)),)},
    complete=True,
)


class FakeSnapshot:
    def __init__(self):
        self.workloads = {BUYER.key: BUYER}
        self.by_names = False
        self.zone = Snapshot("here", services=SERVICES, names=NAMES).zone

    def workload(self, key):
        return self.workloads.get(key)

    def goes_by_names(self, identity):
        return self.by_names


class FakeSockets:
    """What the kernel side offers: here plain sockets, and a resolver that was asked because the test says so."""

    def __init__(self):
        self.asked = None
        self.seen = []
        self.made = 0
        self.from_the_node = 0
        self.error = None

    def outwards(self, workload, family, kind=socket.SOCK_STREAM):
        assert workload is BUYER
        if self.error:
            raise self.error
        self.made += 1
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock

    def from_node(self, family, kind=socket.SOCK_STREAM):
        self.from_the_node += 1
        return self.outwards(BUYER, family, kind)

    def resolver_asked(self, workload, client, listener):
        self.seen.append((workload, client, listener))
        return self.asked


def bound(address, kind):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setblocking(False)
    sock.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(100)
    return sock


@pytest.fixture
def sockets():
    return FakeSockets()


@pytest.fixture
def names(sockets):
    return Resolver(
        BUYER.key,
        SimpleNamespace(
            snapshot=FakeSnapshot(),
            sockets=sockets,
            ports=Ports(),
            dns_ttl=7,
            dns_ask_unknown=False,
            dns_trusted=lambda workload: {"127.0.0.1"},
            ties={},
            lookups={},
            spares=lambda descriptor: True,
        ),
        Budget().cache(),
    )


@pytest.fixture
async def upstream_udp(sockets):
    """A UDP socket for the test to play the resolver that was asked."""
    with trio.socket.from_stdlib_socket(bound("127.0.0.1", socket.SOCK_DGRAM)) as sock:
        sockets.asked = sock.getsockname()
        yield sock


@pytest.fixture
async def upstream_tcp(monkeypatch):
    """A listener for the test to play the resolver that was asked."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound("127.0.0.1", socket.SOCK_STREAM)))
    address = listener.socket.getsockname()
    monkeypatch.setattr(resolver, "original_destination", lambda sock: address)
    yield listener
    listener.socket.close()


class UdpClient:
    def __init__(self, address, own=""):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        raw = socket.socket(family, socket.SOCK_DGRAM)
        if own:
            raw.bind((own, 0))
        raw.connect(address)
        self.sock = trio.socket.from_stdlib_socket(raw)

    async def ask(self, name, rdtype="A", **how):
        query = dns.message.make_query(name, rdtype, **how)
        await self.sock.send(query.to_wire())
        return await self.answer(query)

    async def answer(self, query):
        response = dns.message.from_wire(await self.sock.recv(65535))
        assert query.is_response(response)
        return response


@pytest.fixture
async def open_udp(names, nursery):
    """Start a UDP door; answers a client of it."""
    opened = []

    def open_udp(bind="127.0.0.1", dial=None):
        door = bound(bind, socket.SOCK_DGRAM)
        nursery.start_soon(names.serve_udp, door)
        client = UdpClient((dial or bind, door.getsockname()[1]))
        opened.extend((door, client.sock))
        return client

    yield open_udp
    for sock in opened:
        sock.close()


class TcpClient:
    def __init__(self, stream):
        self.stream = stream
        self.buffer = b""

    async def send(self, *queries):
        await self.stream.send_all(b"".join(query.to_wire(prepend_length=True) for query in queries))

    async def frame(self):
        """The next message as bytes; None at the end."""
        while True:
            if len(self.buffer) >= 2:
                end = 2 + int.from_bytes(self.buffer[:2])
                if len(self.buffer) >= end:
                    frame, self.buffer = self.buffer[2:end], self.buffer[end:]
                    return frame
            data = await self.stream.receive_some(65536)
            if not data:
                assert not self.buffer
                return None
            self.buffer += data

    async def answer(self):
        return dns.message.from_wire(await self.frame())


@pytest.fixture
async def open_tcp(names, nursery):
    """Start a TCP door; answers a function that connects to it."""
    opened = []

    def open_tcp():
        door = bound("127.0.0.1", socket.SOCK_STREAM)
        nursery.start_soon(names.serve_tcp, door)
        opened.append(door)

        async def connect():
            stream = await trio.open_tcp_stream(*door.getsockname())
            opened.append(stream.socket)
            return TcpClient(stream)

        return connect

    yield open_tcp
    for sock in opened:
        sock.close()
