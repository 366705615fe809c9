"""The socket that an endpoint is dialled with, and what comes of a server that does not answer."""

import errno
import os
import socket

import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick
from nodeproxy.limits import Limits
from nodeproxy.routing.dial import ATTEMPTS, dial, or_another
from nodeproxy.upstream.balance import FAILURES
from policy.model import Endpoint
from tests.journeys.stand_ins import bound
from tests.nodeproxy.conftest import BUYER, STORE

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def server():
    with bound("127.0.0.1", socket.SOCK_STREAM, backlog=10) as sock:
        yield sock


def to(sock, local=False, workload=STORE):
    return Pick(Endpoint(*sock.getsockname()[:2]), workload, "shop/store", "a rule", local)


async def test_a_local_server_is_dialled_in_its_own_namespace(context, connect, server):
    async with await dial(connect(peer=("10.0.0.1", 1)), to(server, local=True)) as stream:
        assert stream.socket.getpeername() == server.getsockname()
    assert context.sockets.made == [("towards", STORE.key, "10.0.0.1", V4)]


async def test_the_last_descriptors_are_the_daemons_own(context, connect, server):
    context.first_reserved = 0
    with pytest.raises(Refused) as refused:
        await dial(connect(), to(server))
    assert refused.value.flag == "too-many-connections"
    [made] = context.sockets.sockets
    assert made.fileno() < 0, "it is given back"


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN])
async def test_what_this_node_lacks_is_not_the_endpoints_fault(context, connect, server, monkeypatch, number):
    async def lacks(self, address):
        raise OSError(number, "none just now")

    monkeypatch.setattr(trio._socket._SocketType, "connect", lacks)
    for _ in range(FAILURES):
        with pytest.raises(Refused):
            await dial(connect(), to(server))
    assert not context.live.breakers


@pytest.fixture
def ends(monkeypatch):
    """What the next connects end in, as error numbers; the ones after that, and those for 0, are the kernel's."""
    ends = []
    connect = trio._socket._SocketType.connect

    async def ended(self, address):
        if ends and (number := ends.pop(0)):
            raise OSError(number, os.strerror(number))
        await connect(self, address)

    monkeypatch.setattr(trio._socket._SocketType, "connect", ended)
    return ends


async def test_a_local_server_without_a_free_port_is_dialled_from_one_in_time_wait(context, connect, server, ends):
    ends += [errno.EADDRNOTAVAIL] * 3
    async with await dial(connect(peer=("10.0.0.1", 1)), to(server, local=True)) as stream:
        assert stream.socket.getpeername() == server.getsockname()
    ordinary = ("towards", STORE.key, "10.0.0.1", V4)
    assert context.sockets.made == [ordinary] + [(*ordinary, "reuse")] * 3
    assert not context.live.breakers
    assert {sock.fileno() for sock in context.sockets.sockets} == {-1}, "every socket is closed"


async def test_a_port_that_somebody_else_has_is_passed_over(context, connect, server, ends, monkeypatch):
    ends.append(errno.EADDRNOTAVAIL)
    towards, held = context.sockets.towards, [True, True]

    def somebody_elses(workload, caller, family, reuse=False):
        if reuse and held and held.pop():
            raise OSError(errno.EADDRINUSE, "in use")
        return towards(workload, caller, family, reuse)

    monkeypatch.setattr(context.sockets, "towards", somebody_elses)
    async with await dial(connect(), to(server, local=True)):
        assert not held


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ([errno.EADDRNOTAVAIL] * 100, "Cannot assign requested address"),
        ([errno.EADDRNOTAVAIL, errno.ECONNREFUSED], "Connection refused"),
    ],
)
async def test_the_search_for_a_port_ends(context, connect, server, ends, numbers, why):
    ends += numbers
    with pytest.raises(Refused) as caught:
        await dial(connect(), to(server, local=True))
    assert caught.value.detail.endswith(why)
    assert len(context.sockets.made) == min(len(numbers), 17)
    assert {sock.fileno() for sock in context.sockets.sockets} == {-1}, "every socket is closed"


async def test_for_another_server_no_port_is_looked_for(context, connect, server, ends):
    ends.append(errno.EADDRNOTAVAIL)
    with pytest.raises(Refused):
        await dial(connect(), to(server))
    assert len(context.sockets.made) == 1


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


def tries(*ends):
    """Endpoints as `or_another` is given them one by one; `ends`: what becomes of the first, the second, ..., and of the decision after."""
    picks = [Pick(Endpoint("10.0.0.2", 1 + n), None, "", "", False) for n in range(len(ends))]
    seen = []

    async def connect(pick):
        seen.append(pick)
        end = ends[len(seen) - 1]
        if isinstance(end, str):
            raise Refused(end, str(pick.endpoint))
        return end

    def again(tried):
        assert list(tried) == [pick.endpoint for pick in seen]
        end = ends[len(seen)]
        if isinstance(end, Refused):
            raise end
        return picks[len(seen)]

    return picks, seen, connect, again


async def test_another_endpoint_is_tried_where_one_does_not_answer():
    picks, seen, connect, again = tries("connect-failed", "connect-timeout", 7)
    assert await or_another(picks[0], again, connect) == (7, picks[2])
    assert seen == picks


async def test_the_last_failure_is_told_and_no_more_are_tried():
    picks, seen, connect, again = tries(*["connect-failed"] * (ATTEMPTS + 1))
    with pytest.raises(Refused, match=f"10.0.0.2:{ATTEMPTS}"):
        await or_another(picks[0], again, connect)
    assert len(seen) == ATTEMPTS


@pytest.mark.parametrize(
    ("newer", "told"), [("no-endpoint", "connect-timeout"), ("connect-failed", "connect-timeout"), ("denied", "denied")]
)
async def test_that_nobody_else_is_left_is_no_news_but_a_change_of_policy_is(newer, told):
    picks, _, connect, again = tries("connect-timeout", Refused(newer))
    with pytest.raises(Refused) as error:
        await or_another(picks[0], again, connect)
    assert error.value.flag == told
