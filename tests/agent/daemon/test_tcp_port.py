"""A port that a field of the NodeConfig names."""

from __future__ import annotations

import inspect
import re
import socket

import pytest
import trio

from agent.daemon import cluster_door, listeners, tcp_port
from agent.daemon.tcp_port import TcpPort
from agent.system.fd_store import FdStore
from tests.ports import free_port


def test_no_address_is_no_port() -> None:
    assert TcpPort("metrics", "metricsAddress", "", FdStore()).address is None
    assert TcpPort("metrics", "metricsAddress", "[::1]:80", FdStore()).address == ("::1", 80)


async def test_a_port_in_use_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_port, "_AGAIN", 0.01)
    taken = socket.socket()
    number = free_port()
    taken.bind(("127.0.0.1", number))
    taken.listen()
    kept = FdStore()
    port = TcpPort("metrics", "metricsAddress", f"127.0.0.1:{number}", kept)
    with trio.move_on_after(0.1):
        await port.listener(("127.0.0.1", number))
    (problem,) = port.problems()
    assert problem.message == f"no metrics on 127.0.0.1:{number}: Address already in use; it is tried again"
    assert problem.hint == "stop what listens there, or set another metricsAddress and restart"
    taken.close()
    with trio.fail_after(60):
        listener = await port.listener(("127.0.0.1", number))
    assert list(port.problems()) == []
    await listener.aclose()
    kept.close()


def test_the_names_of_all_ports_are_known() -> None:
    """What a predecessor lends under them is spared until their listeners have begun (agent/daemon/leader.py)."""
    used = {
        word
        for module in (listeners, cluster_door)
        for word in re.findall(r'TcpPort\(\s*"(\w+)"', inspect.getsource(module))
    }
    assert used == set(tcp_port.NAMES)
