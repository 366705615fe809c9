"""Capabilities and connections as /proc tells them."""

import os

from agent.kernel import powers

HEAD = "  sl  local_address rem_address   st\n"


def line(address, port, state="01"):
    return f"   0: {address}:{port:04X} 0200000A:0050 {state} 00000000:00000000\n"


def test_connections_are_counted_without_loopback_and_ours(monkeypatch, tmp_path):
    (tmp_path / "tcp").write_text(
        HEAD
        + line("0100000A", 4000)
        + line("0100000A", 4001, "0A")  # listens
        + line("0100007F", 4002)
        + line("0100000A", 15006)
    )
    six = "000000000000000000000000"
    (tmp_path / "tcp6").write_text(
        HEAD
        + line("000080FE" + "0" * 23 + "1", 4000)
        + line(six + "01000000", 4001)
        + line("0000000000000000FFFF00000100007F", 4002)
        + line("0000000000000000FFFF00000100000A", 4003)
    )
    monkeypatch.setattr(powers, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert powers.established((15001, 15006)) == 3


def test_no_ipv6_is_no_fault(monkeypatch, tmp_path):
    (tmp_path / "tcp").write_text(HEAD + line("0100000A", 4000))
    monkeypatch.setattr(powers, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert powers.established(()) == 1


def test_nobody_is_looked_at_where_nobody_is_asked_for():
    assert powers.powers_by_namespace([]) == {}
    assert powers.powers_of([]) == ()
    assert set(powers.powers_of([os.getpid(), 1 << 30])) <= {"NET_ADMIN", "NET_RAW"}
    status = os.stat("/proc/self/ns/net")
    found = powers.powers_by_namespace([(status.st_dev, status.st_ino)])
    assert set(found) <= {(status.st_dev, status.st_ino)}
    assert all(set(held) <= {"NET_ADMIN", "NET_RAW"} for held in found.values())
