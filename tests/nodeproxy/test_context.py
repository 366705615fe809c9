"""What is known of a connection, and what publish() may ask about it."""

import pytest

from nodeproxy.interfaces import Pick
from policy.model import Request
from tests.nodeproxy.conftest import BUYER, E2, STORE

PICK = Pick(E2, STORE, "shop/store", "a rule", True)


def test_outbound_the_door_is_the_caller(connect):
    conn = connect()
    assert conn.source is BUYER
    assert conn.identity == BUYER.identity
    record = conn.report.record
    assert (record.kind, record.direction, record.source, record.destination) == ("connection", "outbound", BUYER, None)
    assert (record.source_address, record.dialled) == ("10.0.0.1", "10.1.0.1:80")


def test_inbound_nobody_has_proved_who_he_is(connect):
    conn = connect(("10.0.0.2", 8080), STORE, "inbound", ("10.0.0.1", 1))  # a workload's address is no proof
    assert conn.source is None
    assert conn.identity is None
    assert (conn.report.record.source, conn.report.record.destination) == (None, STORE)


def test_ids_differ_and_an_ipv6_address_is_written_in_brackets(connect):
    first, second = connect(), connect(("fd00::7", 443))
    assert first.id != second.id
    assert second.report.record.dialled == "[fd00::7]:443"


@pytest.mark.parametrize("request_", [None, Request("GET", "/")])
def test_what_moves_is_known_until_it_rests(connect, request_):
    conn = connect()
    assert not conn.active
    conn.moves(PICK, request_)
    assert (conn.active, conn.pick, conn.request) == (True, PICK, request_)
    conn.rests()
    assert (conn.active, conn.request) == (False, None)


def test_a_person_can_read_it(connect):
    conn = connect()
    assert repr(conn) == f"<Conn {conn.id} outbound shop/buyer -> 10.1.0.1:80>"
    conn.moves(PICK, None)
    assert repr(conn) == f"<Conn {conn.id} outbound shop/buyer -> 10.1.0.1:80 -> 10.0.0.2:8080>"
    stranger = connect(("10.0.0.2", 8080), STORE, "inbound", ("10.9.9.9", 1))
    assert repr(stranger) == f"<Conn {stranger.id} inbound 10.9.9.9 -> 10.0.0.2:8080>"
