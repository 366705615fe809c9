"""A connection is listed while it lives, and whatever ends it, it ends once, with one flag."""

from __future__ import annotations

import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.protocols.lifetime import Life
from tests.nodeproxy.conftest import STORE

ENDS = [
    (None, "", ""),
    (Refused("no-port", "x:1"), "no-port", "x:1"),
    (trio.BrokenResourceError("reset"), "client-gone", "reset"),
    (trio.ClosedResourceError("shut"), "client-gone", "shut"),
    (OSError(104, "Connection reset by peer"), "client-gone", "Connection reset by peer"),
    (KeyError("a fault of ours"), "internal", ""),
]


@pytest.mark.parametrize(("error", "flag", "detail"), ENDS)
async def test_one_flag_for_each_end(connect, records, error, flag, detail):
    conn, ends = connect(), []
    with Life(conn, ends.append), conn.scope:
        assert conn.context.conns == {conn.id: conn}
        if error is not None:
            raise error
    assert not conn.context.conns
    assert ends == [flag]
    assert [(record.flag, record.detail) for record in records] == [(flag, detail)]
    assert bool(records[0].id) == isinstance(error, Refused), "whoever was refused can ask why"


async def test_it_is_cut_as_what_the_verdict_says(connect, records):
    for verdict in ("cut", ""):
        conn, ends = connect(), []
        with Life(conn, ends.append), conn.scope:
            conn.verdict = verdict
            conn.scope.cancel()
            await trio.sleep_forever()
        assert ends == [verdict or "drained"]
    assert [record.flag for record in records] == ["cut", "drained"]


async def test_a_cancellation_from_outside_goes_on_and_is_recorded(connect, records):
    conn, ends = connect(), []
    with trio.CancelScope() as outer:
        with Life(conn, ends.append), conn.scope:
            outer.cancel()
            await trio.sleep_forever()
        pytest.fail("it was swallowed")
    assert outer.cancelled_caught
    assert ends == ["drained"]
    assert [record.flag for record in records] == ["drained"]
    assert not conn.context.conns


async def test_a_refusal_keeps_the_other_node_s_id_and_names_whom_it_protected(connect, records):
    conn = connect()
    with Life(conn, lambda _: None), conn.scope:
        raise Refused("peer-refused", "", STORE, "ab" * 16)
    assert (records[0].id, records[0].destination) == ("ab" * 16, STORE)


async def test_what_is_recorded_request_by_request_leaves_the_report_open(connect, records):
    conn, ends = connect(), []
    with Life(conn, ends.append, records=False), conn.scope:
        raise Refused("denied", "", STORE)
    assert ends == ["denied"]
    assert not records
    assert not conn.report.closed
    assert conn.report.record.id == ""
