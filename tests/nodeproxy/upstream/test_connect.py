"""The socket that an endpoint is dialled with, the address it shows, and what comes of a server that does not answer."""

import socket

import pytest
import trio

from nodeproxy.context import Pick
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.upstream.connect import caller_address, dial
from nodeproxy.upstream.live import FAILURES
from policy.model import Endpoint, Workload
from tests.journeys.stand_ins import bound
from tests.nodeproxy.conftest import BUYER, NODE, STORE

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def server():
    with bound("127.0.0.1", socket.SOCK_STREAM, backlog=10) as sock:
        yield sock


def to(sock, local=False, workload=STORE):
    return Pick(Endpoint(*sock.getsockname()[:2]), workload, "shop/store", "a rule", local)


@pytest.mark.parametrize(
    ("direction", "peer", "family", "shown"),
    [
        ("outbound", "10.0.0.1", V4, "10.0.0.1"),
        ("outbound", "fd00::1", V6, "fd00::1"),
        ("outbound", "10.0.0.1", V6, "fd00::1"),  # another family: the workload's own address stands in
        ("outbound", "fd00::1", V4, "10.0.0.1"),
        ("outbound", "127.0.0.1", V4, "10.0.0.1"),  # a call to the service range may leave by lo
        ("outbound", "127.0.0.5", V6, "fd00::1"),
        ("outbound", "::1", V6, "fd00::1"),
        ("outbound", "10.9.9.9", V4, "10.0.0.1"),  # who may choose its address (NET_ADMIN) is shown by the one that is its own
        ("inbound", "10.9.9.9", V4, "10.9.9.9"),
        ("inbound", "10.9.9.9", V6, ""),  # the callee's own addresses are not the caller's
        ("inbound", "127.0.0.1", V4, ""),
    ],
)
def test_the_server_sees_the_callers_own_address(connect, direction, peer, family, shown):
    assert caller_address(connect(direction=direction, peer=(peer, 40000)), family) == shown


def test_a_caller_without_an_address_of_that_family(connect):
    only_v4 = Workload("shop", "buyer", "buyer", ("10.0.0.1",))
    assert caller_address(connect(workload=only_v4), V6) == ""


def test_an_undeclared_address_is_believed_unless_it_is_anothers(connect):
    only_v4 = Workload("shop", "buyer", "buyer", ("10.0.0.1",))
    assert caller_address(connect(workload=only_v4, peer=("fd00::77", 1)), V6) == "fd00::77"
    for anothers in ("fd00::2", "fd00::fe"):  # a workload's, the node's
        assert caller_address(connect(workload=only_v4, peer=(anothers, 1)), V6) == ""
    unit = Workload("shop", "buyer", "buyer", (), unit="buyer.service")
    assert caller_address(connect(workload=unit, peer=(NODE, 1)), V4) == NODE  # a unit shares the node's


async def test_a_local_server_is_dialled_in_its_own_namespace(context, connect, server):
    async with await dial(connect(peer=("10.0.0.1", 1)), to(server, local=True)) as stream:
        assert stream.socket.getpeername() == server.getsockname()
    assert context.sockets.made == [("towards", STORE.key, "10.0.0.1", V4)]


@pytest.mark.parametrize(("local", "workload"), [(False, STORE), (False, None), (True, None)])
async def test_any_other_is_dialled_on_the_callers_behalf(context, connect, server, local, workload):
    async with await dial(connect(), to(server, local, workload)):
        assert context.sockets.made == [("outwards", BUYER.key, V4, socket.SOCK_STREAM)]


async def test_an_ipv6_endpoint_gets_an_ipv6_socket(context, connect):
    with bound("::1", socket.SOCK_STREAM, backlog=1) as server:
        async with await dial(connect(), to(server)) as stream:
            assert stream.socket.family == V6


async def test_a_server_that_refuses(context, connect):
    with bound("127.0.0.1", socket.SOCK_STREAM) as deaf:
        pick = to(deaf)
        for _ in range(FAILURES):
            with pytest.raises(Refused) as caught:
                await dial(connect(), pick)
    assert caught.value.flag == "connect-failed"
    assert caught.value.detail == f"{pick.endpoint}: Connection refused"
    assert context.live.breakers[pick.endpoint].state == "tripped"
    assert {sock.fileno() for sock in context.sockets.sockets} == {-1}, "every socket is closed"


async def test_one_success_forgets_the_failures(context, connect, server):
    pick = to(server)
    for _ in range(FAILURES - 1):
        context.live.failed(pick.endpoint, 0.0)
    async with await dial(connect(), pick):
        assert not context.live.breakers


class NeverAnswers:
    """A socket whose connect() waits for an answer that never comes."""

    closed = False

    async def connect(self, address):
        await trio.sleep_forever()

    def close(self):
        self.closed = True


@pytest.fixture
def unanswered(monkeypatch):
    sock = NeverAnswers()

    def from_stdlib_socket(raw):
        raw.close()
        return sock

    monkeypatch.setattr(trio.socket, "from_stdlib_socket", from_stdlib_socket)
    return sock


async def test_a_server_that_does_not_answer(context, connect, unanswered, autojump_clock):
    context.limits = Limits(connect_timeout=7.5)
    pick = Pick(Endpoint("10.0.0.2", 8080), None, "", "", False)
    with pytest.raises(Refused) as caught:
        await dial(connect(), pick)
    assert trio.current_time() == pytest.approx(7.5)
    assert (caught.value.flag, caught.value.detail) == ("connect-timeout", "10.0.0.2:8080: no answer in 7.5 s")
    assert context.live.breakers[pick.endpoint].failures == 1
    assert unanswered.closed


async def test_a_caller_that_is_cut_meanwhile_says_nothing_of_the_server(context, connect, unanswered, autojump_clock):
    with trio.move_on_after(1) as scope:
        await dial(connect(), Pick(Endpoint("10.0.0.2", 8080), None, "", "", False))
    assert scope.cancelled_caught
    assert not context.live.breakers
    assert unanswered.closed


async def test_a_namespace_that_is_gone_is_no_failure_of_the_endpoint(context, connect):
    context.sockets.error = FileNotFoundError(2, "No such file or directory")
    for local in (True, False):
        with pytest.raises(Refused) as caught:
            await dial(connect(), Pick(Endpoint("10.0.0.2", 8080), STORE, "", "", local))
        assert caught.value.flag == "connect-failed"
        assert caught.value.detail == "10.0.0.2:8080: no socket in the workload's namespace: No such file or directory"
    assert not context.live.breakers
