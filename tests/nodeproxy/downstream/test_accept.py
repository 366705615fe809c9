"""Every connection is entered, runs behind its door, and leaves by one exit: one record, one flag, a close or a reset."""

import errno
import logging
import socket

import pytest
import trio
import trio.testing

from nodeproxy.downstream import accept as listen
from nodeproxy.downstream.accept import accept_forever, aimed_at
from nodeproxy.errors import Refused
from nodeproxy.h2.limits import Bounds
from nodeproxy.h2.owner import of_all
from nodeproxy.limits import Gate
from policy.model import Workload
from tests.journeys.stand_ins import bound
from tests.nodeproxy.conftest import BUYER, E2, STORE, ends, snapshot

DIALLED = ("10.1.0.1", 80)


class Listening:
    """An accepting task on loopback. `door` is what the test wants done with a connection; `aimed` what conntrack says."""

    def __init__(self, context, nursery, gate):
        self.context = context
        self.nursery = nursery
        self.gate = gate
        self.sock = bound("127.0.0.1", socket.SOCK_STREAM, backlog=10)
        self.address = self.sock.getsockname()
        self.aimed = DIALLED
        self.conns = []
        self.door = None
        self.workload = BUYER
        self.way = "outbound"
        self.calls = []

    def original_destination(self, sock):
        if isinstance(self.aimed, OSError):
            raise self.aimed
        return self.aimed

    async def _door(self, conn):
        assert self.context.conns == {conn.id: conn for conn in (*self.conns, conn) if not conn.report.closed}
        self.conns.append(conn)
        await self.door(conn)

    def start(self, listener=None):
        listener = listener or trio.socket.from_stdlib_socket(self.sock)
        args = (listener, self.context, self.workload, self.way, self._door, self.gate, self.nursery)
        self.nursery.start_soon(accept_forever, *args)

    async def call(self):
        # Blocking, so that it is done before a refusal can be so fast that connect() hears of it.
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.create_connection(self.address)))
        self.calls.append(stream)
        await trio.testing.wait_all_tasks_blocked(0.005)
        return stream

    def close(self):
        self.sock.close()
        for stream in self.calls:
            stream.socket.close()


@pytest.fixture
async def listening(context, nursery, monkeypatch):
    listening = Listening(context, nursery, Gate(10))
    monkeypatch.setattr(listen, "original_destination", listening.original_destination)
    yield listening
    nursery.cancel_scope.cancel()
    listening.close()


async def returns(conn):
    await trio.lowlevel.checkpoint()


async def waits(conn):
    await trio.sleep_forever()


async def closes_by_itself(conn):
    conn.report.close("idle", "an exchange said so", status=408)


def raises(error):
    async def door(conn):
        await trio.lowlevel.checkpoint()
        raise error

    return door


# how a connection ends


@pytest.mark.parametrize(
    ("door", "flag", "detail", "end"),
    [
        (returns, "", "", "closed"),
        (raises(Refused("denied", "no-rule")), "denied", "no-rule", "reset"),
        (raises(trio.BrokenResourceError("the caller went")), "client-gone", "the caller went", "reset"),
        (raises(trio.ClosedResourceError("closed")), "client-gone", "closed", "reset"),
        (
            raises(OSError(errno.ENOTCONN, "Transport endpoint is not connected")),
            "client-gone",
            "Transport endpoint is not connected",
            "reset",
        ),
        (closes_by_itself, "idle", "an exchange said so", "closed"),
    ],
)
async def test_one_exit(context, records, listening, door, flag, detail, end):
    listening.door = door
    listening.start()
    assert await ends(await listening.call()) == end
    (record,) = records
    assert (record.flag, record.detail) == (flag, detail)
    assert not context.conns
    assert listening.gate.open == 0


async def test_a_fault_of_ours_ends_one_connection_and_is_logged(records, listening, caplog):
    listening.door = raises(ZeroDivisionError("oops"))
    listening.start()
    assert await ends(await listening.call()) == "reset"
    assert [record.flag for record in records] == ["internal"]
    (line,) = caplog.records
    assert line.levelno == logging.ERROR and line.exc_info[0] is ZeroDivisionError
    assert f"<Conn {listening.conns[0].id} outbound shop/buyer -> 10.1.0.1:80>" in line.getMessage()
    listening.door = returns
    assert await ends(await listening.call()) == "closed"


@pytest.mark.parametrize(("verdict", "flag"), [("cut", "cut"), ("", "drained")])
async def test_a_cut_is_named_by_who_did_it(context, records, listening, verdict, flag):
    listening.door = waits
    listening.start()
    caller = await listening.call()
    (conn,) = context.conns.values()
    conn.verdict = verdict
    conn.scope.cancel()
    assert await ends(caller) == "reset"
    assert [record.flag for record in records] == [flag]
    assert not context.conns


async def test_cancelled_from_outside_is_drained(context, records, listening):
    listening.door = waits
    async with trio.open_nursery() as listening.nursery:
        listening.start()
        callers = [await listening.call() for _ in range(2)]
        listening.nursery.cancel_scope.cancel()
    assert [await ends(caller) for caller in callers] == ["reset", "reset"]
    assert [record.flag for record in records] == ["drained", "drained"]
    assert not context.conns and listening.gate.open == 0


async def test_a_refusal_names_whom_it_kept_the_caller_from(records, listening):
    listening.door = raises(Refused("denied", "no-rule", STORE))
    listening.start()
    await ends(await listening.call())
    assert records[0].destination is STORE


# what is known of a connection


@pytest.mark.parametrize("inbound", [False, True])
async def test_what_the_door_is_told(listening, inbound):
    listening.door, listening.way = waits, "inbound" if inbound else "outbound"
    listening.start()
    caller = await listening.call()
    (conn,) = listening.conns
    assert (conn.direction, conn.dialled, conn.peer) == (
        "inbound" if inbound else "outbound",
        DIALLED,
        caller.socket.getsockname(),
    )
    assert conn.source is (None if inbound else BUYER)


async def test_a_workload_that_changed_since_its_doors_opened(context, listening):
    newer = Workload("shop", "buyer", "somebody-else", BUYER.addresses)
    context.snapshot = snapshot(workloads=(newer,))
    listening.door = waits
    listening.start()
    await listening.call()
    assert listening.conns[0].workload is newer
    context.snapshot = snapshot(workloads=())
    await listening.call()
    assert listening.conns[1].workload is BUYER


@pytest.mark.parametrize("how", ["not in conntrack", "its own address"])
async def test_a_door_that_is_dialled_itself(records, listening, how):
    listening.aimed = (
        FileNotFoundError(2, "No such file or directory") if how == "not in conntrack" else listening.address
    )
    listening.door = waits
    listening.start()
    assert await ends(await listening.call()) == "reset"
    assert not listening.conns
    address = f"127.0.0.1:{listening.address[1]}"
    assert [(record.flag, record.detail, record.dialled) for record in records] == [("own-port", address, address)]


async def test_aimed_at(listening):
    listening.door = waits
    stream = await trio.open_tcp_stream(*listening.address)
    listening.calls.append(stream)
    own = stream.socket.getsockname()
    for aimed, answer in ((DIALLED, (DIALLED, True)), (own, (own, False)), (OSError(2, ""), (own, False))):
        listening.aimed = aimed
        assert aimed_at(stream) == answer


# the gate


@pytest.mark.parametrize("inbound", [False, True])
async def test_a_connection_too_many_is_reset_and_recorded(context, records, listening, inbound):
    listening.door, listening.way, listening.gate = waits, "inbound" if inbound else "outbound", Gate(2)
    listening.start()
    for _ in range(2):
        await listening.call()
    assert not records
    over = await listening.call()
    assert await ends(over) == "reset"
    (record,) = records
    assert (record.kind, record.direction, record.flag) == (
        "connection",
        "inbound" if inbound else "outbound",
        "too-many-connections",
    )
    assert (record.source, record.destination) == ((None, BUYER) if inbound else (BUYER, None))
    assert record.source_address == "127.0.0.1"
    assert (listening.gate.open, listening.gate.refused) == (2, 1)
    assert len(context.conns) == 2
    listening.conns[0].scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    await listening.call()  # there is room again
    assert len(listening.conns) == 3


async def test_strangers_who_fill_a_door_keep_the_nodes_prober_from_nothing(context, records, listening, monkeypatch):
    listening.door, listening.way, listening.gate = waits, "inbound", Gate(1, reserve=Gate(1))
    listening.start()
    await listening.call()
    assert await ends(await listening.call()) == "reset"
    monkeypatch.setattr(context.sockets, "probers", lambda: frozenset({"127.0.0.1"}))
    await listening.call()
    assert (listening.gate.open, listening.gate.reserve.open) == (1, 1)
    assert await ends(await listening.call()) == "reset", "it is bounded too"
    listening.conns[1].scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert (listening.gate.open, listening.gate.reserve.open) == (1, 0)


async def test_when_descriptors_run_short_who_has_most_gets_no_more(context, records, listening):
    """One workload, within its limit of connections, left none to the others: 3.5 s a call for them, at a limit of 1,024."""
    listening.door = waits
    context.descriptors = 16
    listening.start()
    for _ in range(6):
        await listening.call()
    assert await ends(await listening.call()) == "reset"
    assert records[0].flag == "too-many-connections"
    assert records[0].detail == "descriptors run short, and this door has more than its share"
    assert not listen._takes_too_much(context, Gate(10))  # another door, with no connection yet


# accept(2) fails


class Faulty:
    """A listener that fails as told before it accepts."""

    def __init__(self, sock, *numbers):
        self.inner = trio.socket.from_stdlib_socket(sock)
        self.errors = [OSError(number, f"error {number}") for number in numbers]
        self.accepts = 0

    async def accept(self):
        self.accepts += 1
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return await self.inner.accept()


async def test_the_last_descriptors_are_the_daemons_own(context, records, listening):
    listening.door = returns
    listening.start()
    context.first_reserved = 0
    assert await ends(await listening.call()) == "reset"
    assert records[0].flag == "too-many-connections"
    assert not listening.gate.open
    context.first_reserved = 1 << 20
    assert await ends(await listening.call()) == "closed"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EIO])
async def test_out_of_descriptors_it_waits_and_goes_on(listening, caplog, autojump_clock, number):
    listening.door = returns
    faulty = Faulty(listening.sock, number, number)
    listening.start(faulty)
    await trio.sleep(0.15)
    assert faulty.accepts == 2, "it must not spin"
    await trio.sleep(0.1)
    assert faulty.accepts == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"accept for shop/buyer: error {number}; it is tried again every 0.1 s"
    ], "once"


async def test_a_connection_that_is_gone_already_is_nothing(records, listening, caplog):
    listening.door = returns
    listening.start(Faulty(listening.sock, errno.ECONNABORTED, errno.EPROTO))
    assert await ends(await listening.call()) == "closed"
    assert len(records) == 1 and not caplog.records


async def test_a_listener_that_is_unusable_ends_alone_and_says_so(listening, caplog):
    faulty = Faulty(listening.sock, errno.EINVAL)
    listening.start(faulty)
    await trio.testing.wait_all_tasks_blocked()
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (
        logging.ERROR,
        f"accept for shop/buyer: error {errno.EINVAL}; this door takes no more connections",
    )
    assert faulty.accepts == 1


async def test_endpoint_and_rule_stay_in_the_record_of_a_cut(context, records, listening):
    async def door(conn):
        conn.report.record.endpoint, conn.report.record.rule = str(E2), "a rule"
        await trio.sleep_forever()

    listening.door = door
    listening.start()
    await listening.call()
    next(iter(context.conns.values())).scope.cancel()
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert (records[0].endpoint, records[0].rule) == ("10.0.0.2:8080", "a rule")


async def test_a_workload_in_debt_waits_until_it_is_paid(context, listening, autojump_clock):
    listening.door = returns
    listening.gate = Gate(10, of_all(10, Bounds(owner_reset_burst=5, owner_reset_rate=1), trio.current_time()))
    while listening.gate.owner.spend(trio.current_time()):
        pass
    began = trio.current_time()
    gone = await trio.open_tcp_stream(*listening.sock.getsockname())
    await gone.send_all(b"and away")
    await gone.aclose()
    listening.start()
    assert await ends(await listening.call()) == "closed"
    assert trio.current_time() - began >= 1
    assert len(listening.conns) == 1, "who has gone meanwhile is not served"
