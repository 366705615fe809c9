"""The daemon's pages for those who come through a cluster's API server, over real sockets and TLS."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from agent.admin.viewers import audience
from agent.config.schema import KubernetesConfig, NodeConfig
from agent.daemon import cluster_door, tcp_port
from agent.daemon.cluster_door import ClusterDoor
from agent.identity.authority import ca
from agent.system.fd_store import FdStore
from nodeproxy.tls.credentials import Credentials
from tests.agent.conftest import ShownDaemon
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, api_of, serving, status
from tests.ports import free_port

VIEWER = "system:serviceaccount:edgemesh-system:edgemesh-viewer"


def token(node: str = "edge-1", user: str = VIEWER, signature: str = "good") -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"aud": [audience(node)], "sub": user}).encode()).rstrip(b"=").decode()
    return f"e30.{claims}.{signature}"


class Served:
    """A door at a free port of 127.0.0.1, and the API server that it asks."""

    def __init__(self, port: int, server: FakeServer, daemon: ShownDaemon, door: ClusterDoor) -> None:
        self.port, self.server, self.daemon, self.door = port, server, daemon, door
        self.pod: dict[str, Any] | None = {"status": {"podIP": "127.0.0.1"}}
        self.vouches = True

    async def answers(self, asked: Asked, answer: Answer) -> None:
        if asked.path.endswith("/pods/edgemesh-agent-x"):
            await (answer.send(200, self.pod) if self.pod else answer.send(403, status(403, "Forbidden")))
            return
        assert (asked.method, asked.path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
        spec = asked.json["spec"]
        good = self.vouches and spec["token"].endswith(".good")
        user = json.loads(base64.urlsafe_b64decode(spec["token"].split(".")[1] + "==="))["sub"]
        review = {"authenticated": good, "user": {"username": user}, "audiences": spec["audiences"] if good else []}
        await answer.send(201, {"status": review})

    async def ask(self, path: str, *fields: str, method: str = "GET", plain: bool = False) -> tuple[int, Any]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as an API server does it
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if not plain:
            stream = trio.SSLStream(stream, context, server_hostname="x", https_compatible=True)
        async with stream:
            lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
            await stream.send_all("\r\n".join(lines).encode())
            found = b""
            while more := await stream.receive_some(65536):
                found += more
        head, _, body = found.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), json.loads(body) if body[:1] in (b"{", b"[") else body

    @property
    def reviews(self) -> int:
        return sum(1 for asked in self.server.asked if asked.method == "POST")


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    port = free_port()
    monkeypatch.setenv("EDGEMESH_POD", "edgemesh-agent-x")
    monkeypatch.setenv("EDGEMESH_NAMESPACE", "edgemesh-system")
    monkeypatch.setattr(cluster_door, "_AGAIN", 0.01)
    monkeypatch.setattr(tcp_port, "_AGAIN", 0.01)
    daemon = ShownDaemon()
    config = NodeConfig(node="edge-1", kubernetes=KubernetesConfig(door=port))
    none: Any = None
    kept = FdStore()
    door = ClusterDoor(config, kept, none)

    async def answers(asked: Asked, answer: Answer) -> None:
        await made.answers(asked, answer)

    async with serving(answers) as server:
        made = Served(port, server, daemon, door)
        daemon.api = api_of(server)
        yield made
    kept.close()


async def begin(served: Served, nursery: trio.Nursery) -> None:
    nursery.start_soon(served.door.serve, served.daemon, nursery)
    with trio.fail_after(60):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", served.port)).aclose()
                return
            except OSError:
                await trio.sleep(0.01)


async def test_with_a_token_that_the_api_server_vouches_for_the_pages_are_read(
    served: Served, nursery: trio.Nursery
) -> None:
    await begin(served, nursery)
    shown = f"edgemesh-token: {token()}"
    code, document = await served.ask("/status", shown)
    assert (code, document["node"], len(document["workloads"])) == (200, "edge-1", 4)
    code, document = await served.ask("/explain?src=shop%2Fthief&dst=store-v1", shown)
    assert (code, document["allowed"]) == (200, False)
    assert (await served.ask("/connections", shown)) == (200, [])
    assert (await served.ask("/refusals?id=x", shown))[0] == 404
    assert (await served.ask("/ready", shown))[0] == 200
    assert served.reviews == 1


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("edgemesh-token: ",),
        (f"Authorization: Bearer {token()}",),
        (f"edgemesh-token: {token('edge-2')}",),
        (f"edgemesh-token: {token(user='system:serviceaccount:shop:till')}",),
        (f"edgemesh-token: {token()}", f"edgemesh-token: {token()}"),
        (f"edgemesh-token: {token()}, {token()}",),
        (f"edgemesh-token: {token()}", "edgemesh-token: x"),
    ],
)
async def test_others_read_nothing_and_cost_the_api_server_nothing(
    served: Served, nursery: trio.Nursery, fields: tuple[str, ...]
) -> None:
    await begin(served, nursery)
    for path in ("/status", "/ready", "/metrics", "/nothing", "/snapshot"):
        code, document = await served.ask(path, *fields)
        assert code == 401
        assert set(document) == {"error", "hint"}
        assert "shop" not in str(document)
    assert served.reviews == 0


async def test_a_forged_token_reads_nothing(served: Served, nursery: trio.Nursery) -> None:
    await begin(served, nursery)
    code, document = await served.ask("/status", f"edgemesh-token: {token(signature='forged')}")
    assert (code, document["error"]) == (403, "the API server does not vouch for this token")
    served.vouches = False
    assert (await served.ask("/status", f"edgemesh-token: {token()}"))[0] == 403


async def test_nothing_is_changed_there_and_not_every_page_is_shown(served: Served, nursery: trio.Nursery) -> None:
    await begin(served, nursery)
    shown = f"edgemesh-token: {token()}"
    for path in ("/update", "/release"):
        assert (await served.ask(path, shown, "Content-Length: 0", method="POST"))[0] == 405
        assert (await served.ask(path, shown))[0] == 404
    for path in ("/snapshot", "/unit", "/"):
        assert (await served.ask(path, shown))[0] == 404


async def test_plain_text_gets_nothing(served: Served, nursery: trio.Nursery) -> None:
    await begin(served, nursery)
    with pytest.raises((trio.BrokenResourceError, IndexError)):
        await served.ask("/status", f"edgemesh-token: {token()}", plain=True)


async def test_connections_that_say_nothing_keep_nobody_out(
    served: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(served, nursery)
    silent = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(40)]
    assert (await served.ask("/ready", f"edgemesh-token: {token()}"))[0] == 200
    assert len(served.door._anteroom) <= 16
    for stream in silent:
        await stream.aclose()


async def test_the_certificate_is_the_node_s_as_soon_as_it_has_one(served: Served, nursery: trio.Nursery) -> None:
    await begin(served, nursery)

    async def certificate() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", served.port), context, server_hostname="x")
        await stream.do_handshake()
        shown: bytes = stream.getpeercert(binary_form=True)
        await trio.aclose_forcefully(stream)
        return shown

    found: list[bytes] = []

    async def look() -> None:
        found.append(await certificate())

    async with trio.open_nursery() as together:
        for _ in range(5):
            together.start_soon(look)
    own = await certificate()
    assert found == [own] * 5  # made once
    made = ca.make_root("x", 1_700_000_000.0, 1)
    node = Credentials("spiffe://x/node/edge-1", made.certificates[0].encode(), made.key, "1", 0.0, 1.0)

    class Keeper:
        def node(self) -> Credentials:
            return node

    served.daemon.keeper = Keeper()
    assert await certificate() == ssl.PEM_cert_to_DER_cert(made.certificates[0])


async def test_until_the_api_server_tells_the_pod_s_address_there_is_a_notice(
    served: Served, nursery: trio.Nursery
) -> None:
    served.pod = None
    nursery.start_soon(served.door.serve, served.daemon, nursery)
    with trio.fail_after(60):
        while not list(served.door.problems()):
            await trio.sleep(0.01)
    (problem,) = served.door.problems()
    assert problem.severity == "notice"
    assert "nobody can read this node's pages through the API server: 403 Forbidden" in problem.message
    served.pod = {"status": {}}
    with trio.fail_after(60):
        while "has no address yet" not in str(list(served.door.problems())):
            await trio.sleep(0.01)
    served.pod = {"status": {"podIP": "127.0.0.1"}}
    await begin(served, nursery)
    assert list(served.door.problems()) == []


async def test_a_port_in_use_is_a_problem_until_it_is_free(served: Served, nursery: trio.Nursery) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", served.port))
    taken.listen()
    nursery.start_soon(served.door.serve, served.daemon, nursery)
    with trio.fail_after(60):
        while not list(served.door.problems()):
            await trio.sleep(0.01)
    (problem,) = served.door.problems()
    assert problem.object == "NodeConfig kubernetes.door"
    assert "Address already in use; it is tried again" in problem.message
    taken.close()
    with trio.fail_after(60):
        while list(served.door.problems()):
            await trio.sleep(0.01)
    assert (await served.ask("/ready", f"edgemesh-token: {token()}"))[0] == 200


@pytest.mark.parametrize("without", ["api", "door", "pod"])
async def test_outside_a_cluster_there_is_no_door(
    served: Served, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    if without == "api":
        served.daemon.api = None
    elif without == "pod":
        monkeypatch.delenv("EDGEMESH_POD")
    else:
        served.door._number = 0
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await served.door.serve(served.daemon, nursery)
    assert served.server.asked == []
