"""The caller as servers see it, and what is kept of that."""

import socket

import pytest

from nodeproxy.routing.source import caller_address, caller_key, forwarded_for, shown_to
from policy.model import Endpoint, Workload
from tests.nodeproxy.conftest import E2, NODE, STORE, snapshot

V4, V6 = socket.AF_INET, socket.AF_INET6
SIX = Endpoint("fd00::2", 8080, STORE.key)


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
        (
            "outbound",
            "10.9.9.9",
            V4,
            "10.0.0.1",
        ),  # who may choose its address (NET_ADMIN) is shown by the one that is its own
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


@pytest.mark.parametrize(
    ("direction", "peer", "shown", "named"),
    [
        ("outbound", "10.0.0.1", ("10.0.0.1", "fd00::1"), "10.0.0.1"),
        ("outbound", "fd00::1", ("10.0.0.1", "fd00::1"), "fd00::1"),
        ("inbound", "10.9.9.9", ("10.9.9.9", ""), "10.9.9.9"),
        ("inbound", "::1", ("", ""), "::1"),
    ],
)
def test_each_endpoint_sees_the_address_of_its_family(connect, direction, peer, shown, named):
    conn = connect(direction=direction, peer=(peer, 40000))
    assert (shown_to(conn, E2), shown_to(conn, SIX)) == shown
    assert forwarded_for(conn) == named
    assert (caller_key(conn, E2), caller_key(conn, SIX)) == shown, "nobody proved an identity"


def test_a_proved_identity_is_in_the_key_of_who_comes_in(connect):
    conn = connect(direction="inbound", workload=STORE, peer=("10.0.0.1", 1))
    conn.identity = STORE.identity
    assert caller_key(conn, E2) == f"10.0.0.1 {STORE.identity}"
    assert shown_to(conn, E2) == "10.0.0.1"


def test_it_is_told_once_for_a_connection_and_its_streams(connect):
    conn = connect()
    caller_key(conn, E2)
    assert conn.shown == ("10.0.0.1", "fd00::1")
    branch = conn.branch(conn.stream)
    assert (branch.shown, branch.keys) == (conn.shown, conn.keys)


def test_an_address_that_another_may_get_is_asked_about_each_time(connect, context):
    undeclared = connect(workload=Workload("shop", "buyer", "buyer", ("10.0.0.1",)), peer=("fd00::77", 1))
    assert caller_key(undeclared, SIX) == "fd00::77"
    context.snapshot = snapshot(workloads=(Workload("shop", "late", "late", ("fd00::77",)),))
    assert caller_address(undeclared, V6) == caller_key(undeclared, SIX) == ""
