"""A node's side: one request that nobody decides stands for all others."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio

from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.kubernetes import objects
from agent.identity.kubernetes.signer import KubernetesSigner
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable
from agent.kubernetes.api import ApiError, ApiUnreachable
from tests.agent.kubernetes.memory import MemoryApi

NOW = 1_800_000_000.0
ROOT = ca.make_root("cluster.local", NOW, 5)
TILL = "spiffe://cluster.local/ns/shop/sa/till"


class Server:
    """An API server where requests are decided when a test says so."""

    def __init__(self) -> None:
        self.requests: dict[str, dict[str, Any]] = {}
        self.roots: dict[str, str] | None = {
            "trustDomain": "cluster.local",
            "issuer": ROOT.fingerprint,
            "roots.pem": ROOT.root,
        }
        self.error: Exception | None = None
        self.date = 0.0
        self.status: dict[str, Any] = {}  # of every new request
        self.lease: dict[str, Any] | int = 404

    async def create(self, path: str, body: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        name = f"edgemesh-{len(self.requests)}"
        made = {**body, "metadata": {"name": name, "resourceVersion": "1"}, "status": self.status}
        self.requests[name] = made
        return made

    async def get(self, path: str, type: Any = Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        if path == objects.roots("edgemesh-system"):
            if self.roots is None:
                raise ApiError(404, "NotFound", "there is none")
            return msgspec.convert({"data": self.roots}, type)
        if path == objects.lease("edgemesh-system"):
            if isinstance(self.lease, int):
                raise ApiError(self.lease, "", "no lease")
            return msgspec.convert({"spec": self.lease}, type)
        found = self.requests.get(path.rpartition("/")[2])
        if found is None:
            raise ApiError(404, "NotFound", "there is none")
        return msgspec.convert(found, type)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, query: dict[str, str]) -> AsyncIterator[Any]:
        async def nothing() -> AsyncIterator[bytes]:
            await trio.sleep(float(query["timeoutSeconds"]))
            return
            yield b""

        yield nothing()


def signer(server: Server) -> KubernetesSigner:
    return KubernetesSigner(server, "edgemesh-system", 3600.0, lambda: NOW)  # type: ignore[arg-type]


def issued(server: Server) -> None:
    key = ca.read_csr(csr.request(csr.new_key(), TILL))
    chain = ca.sign(ROOT, key, TILL, "n-a", 3600.0, NOW, 9)
    server.status = {"certificate": b64encode(chain.encode()).decode()}


async def test_a_certificate_and_the_roots_it_leads_to() -> None:
    server = Server()
    issued(server)
    got = await signer(server).sign(TILL, csr.request(csr.new_key(), TILL))
    assert csr.facts(got.chain, ROOT.root).root == got.bundle.issuer
    (spec,) = [one["spec"] for one in server.requests.values()]
    assert spec["signerName"] == "edgemesh.io/workload"
    assert spec["expirationSeconds"] == 3600


async def test_a_denial_says_why() -> None:
    server = Server()
    condition = {"type": "Denied", "status": "True", "reason": "NotOnThisNode", "message": "no pod of shop/till"}
    server.status = {"conditions": [condition]}
    with pytest.raises(AuthorityRefused, match="no pod of shop/till"):
        await signer(server).sign(TILL, csr.request(csr.new_key(), TILL))


async def test_while_nobody_decides_one_request_stands_for_all(autojump_clock: object) -> None:
    server = Server()
    node = signer(server)
    with pytest.raises(
        AuthorityUnreachable, match="edgemesh-0 waits since 08:00:00 UTC for a server of edgemesh: none holds the lease"
    ):
        await node.sign(TILL, csr.request(csr.new_key(), TILL))
    for _ in range(3):  # what the manager asks until the authority answers
        with pytest.raises(AuthorityUnreachable, match="edgemesh-0"):
            await node.bundle()
    assert len(server.requests) == 1
    server.requests["edgemesh-0"]["status"] = {"conditions": [{"type": "Denied", "status": "True"}]}
    assert (await node.bundle()).trust_domain == "cluster.local"


AT_WORK = {"holderIdentity": "n1_0123456789abcdef", "renewTime": "2027-01-15T07:59:50.000000Z"}


@pytest.mark.parametrize(
    ("lease", "who", "hint"),
    [
        (404, "a server of edgemesh: none holds the lease edgemesh-authority", "get pods"),
        ({"holderIdentity": ""}, "a server of edgemesh: none holds the lease edgemesh-authority", "get pods"),
        (403, "a server of edgemesh", "get pods"),  # an older add-on gives no right to look
        (AT_WORK, "the server on node n1, which holds the lease edgemesh-authority", "logs"),
        (
            {**AT_WORK, "renewTime": "2027-01-15T07:50:00.000000Z"},
            "the server on node n1, which holds the lease edgemesh-authority and has not renewed it since 07:50:00 UTC",
            "get pods",
        ),
        ({**AT_WORK, "renewTime": "now"}, "the server on node n1, which holds the lease edgemesh-authority", "logs"),
    ],
)
async def test_who_is_waited_for_is_told(lease: Any, who: str, hint: str, autojump_clock: object) -> None:
    server = Server()
    server.lease = lease
    node = signer(server)
    assert node.awaited(TILL) == ""
    async with trio.open_nursery() as nursery:

        async def asks() -> None:
            with pytest.raises(AuthorityUnreachable) as caught:
                await node.sign(TILL, csr.request(csr.new_key(), TILL))
            message, _, what = str(caught.value).partition("; ")
            assert message == f"CertificateSigningRequest edgemesh-0 waits since 08:00:00 UTC for {who}"
            assert f"kubectl --namespace edgemesh-system {hint} " in what

        nursery.start_soon(asks)
        await trio.sleep(1)
        assert "CertificateSigningRequest edgemesh-0 waits since 08:00:00 UTC" in node.awaited(TILL)
        await trio.sleep(10)
        assert node.awaited(TILL).endswith(f"for {who}")
    assert node.awaited(TILL) == ""  # now it is an error, which stays
    server.requests.clear()
    server.roots = None
    with pytest.raises(
        AuthorityUnreachable, match=r"is not there: it waits for (a server of edgemesh|the server on node n1)"
    ):
        await node.bundle()


async def test_a_request_that_kubernetes_removed_waits_no_more(autojump_clock: object) -> None:
    server = Server()
    node = signer(server)
    with pytest.raises(AuthorityUnreachable):
        await node.sign(TILL, csr.request(csr.new_key(), TILL))
    server.requests.clear()
    assert (await node.bundle()).trust_domain == "cluster.local"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ApiUnreachable("nothing listens"), AuthorityUnreachable, "nothing listens"),
        (ApiError(403, "Forbidden", "you may not"), AuthorityRefused, "does not let us ask"),
        (ApiError(500, "InternalError", "oh"), AuthorityUnreachable, "oh"),
        (ApiError(401, "Unauthorized", "who?"), AuthorityUnreachable, "who"),
    ],
)
async def test_failures_of_the_api(error: Exception, kind: type[Exception], said: str) -> None:
    server = Server()
    server.error = error
    with pytest.raises(kind, match=said):
        await signer(server).sign(TILL, csr.request(csr.new_key(), TILL))


@pytest.mark.parametrize(
    "roots",
    [None, {}, {"trustDomain": "cluster.local", "issuer": "0", "roots.pem": ROOT.root}, {"trustDomain": "x"}],
)
async def test_no_roots_is_no_answer(roots: dict[str, str] | None) -> None:
    server = Server()
    server.roots = roots
    with pytest.raises(AuthorityUnreachable, match="edgemesh-roots"):
        await signer(server).bundle()


@pytest.mark.parametrize(
    ("date", "time"), [(0.0, NOW), (NOW - 5, NOW), (NOW - 9 * 86400, NOW - 9 * 86400), (NOW + 86400, NOW + 86400)]
)
async def test_a_node_whose_clock_is_wrong_by_days_takes_the_time_of_the_api_server(date: float, time: float) -> None:
    server = Server()
    server.date = date
    assert (await signer(server).bundle()).now == time


# on a server that keeps requests


async def test_a_decision_that_comes_while_it_is_waited_for(autojump_clock: object) -> None:
    api = MemoryApi()
    api.add(objects.roots("edgemesh-system"), data=Server().roots)
    node = KubernetesSigner(api, "edgemesh-system", 3600.0, lambda: NOW)
    server = Server()
    issued(server)
    came: list[float] = []

    async def decide() -> None:
        await trio.sleep(2)
        (path,) = [path for path in api.objects if path.startswith(objects.REQUESTS)]
        api.add(path, status={"conditions": [{"type": "Approved", "status": "True"}]}, spec={})  # not the end of it
        await trio.sleep(1)
        api.add(path, status=server.status, spec={})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(decide)
        began = trio.current_time()
        got = await node.sign(TILL, csr.request(csr.new_key(), TILL))
        came.append(trio.current_time() - began)
    assert csr.facts(got.chain).spiffe == TILL
    assert came == [3.0], "at once, and not at the next look"


async def test_a_decision_that_the_watch_missed_is_found_by_the_next_look(autojump_clock: object) -> None:
    api = MemoryApi()
    api.add(objects.roots("edgemesh-system"), data=Server().roots)
    node = KubernetesSigner(api, "edgemesh-system", 3600.0, lambda: NOW)
    denied = {"conditions": [{"type": "Failed", "status": "True", "reason": "Odd"}]}

    async def decide() -> None:
        await trio.sleep(1)
        (path,) = [path for path in api.objects if path.startswith(objects.REQUESTS)]
        api.objects[path]["status"] = denied  # no watcher is told

    async with trio.open_nursery() as nursery:
        nursery.start_soon(decide)
        began = trio.current_time()
        with pytest.raises(AuthorityRefused, match="the request was failed: Odd"):
            await node.sign(TILL, csr.request(csr.new_key(), TILL))
        assert trio.current_time() - began < 10


async def test_a_certificate_that_is_no_base64_is_refused() -> None:
    server = Server()
    server.status = {"certificate": "%%%"}
    with pytest.raises(AuthorityRefused, match="edgemesh-0 cannot be read"):
        await signer(server).sign(TILL, csr.request(csr.new_key(), TILL))


async def test_an_answer_without_sense_is_no_answer() -> None:
    server = Server()
    server.error = msgspec.ValidationError("Expected `object`, got `int`")
    with pytest.raises(AuthorityUnreachable, match="the API server's answer cannot be read: Expected"):
        await signer(server).bundle()
