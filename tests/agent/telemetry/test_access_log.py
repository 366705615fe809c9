"""The access log: one line for each record, never a wait, never a secret, never a flood."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agent.telemetry import fair_share
from agent.telemetry.access_log import DENIALS, AccessLog, line, unblocking
from nodeproxy.telemetry.record import Record
from policy.model import Workload


class Pipe:
    """A descriptor that takes `room` bytes at once."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.data = b""

    def __call__(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.data += taken
        return len(taken)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.data.splitlines()]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(**fields: Any) -> Record:
    values: dict[str, Any] = {
        "kind": "request",
        "direction": "outbound",
        "started": 1700000000.25,
        "duration": 0.0125,
        "source": None,
        "source_address": "10.0.0.1",
        "destination": None,
        "service": "shop/store",
        "dialled": "240.240.0.1:80",
        "endpoint": "",
        "protocol": "http",
    }
    return Record(**(values | fields))


def test_a_line_says_what_happened() -> None:
    made = line(
        record(
            method="GET", path="/buy?card=4111", status=200, bytes_in=3, bytes_out=4, rule="TrafficTarget shop/buying"
        )
    )
    assert made == {
        "time": "2023-11-14T22:13:20.250Z",
        "kind": "request",
        "direction": "outbound",
        "source": "",
        "source_address": "10.0.0.1",
        "nat_address": "",
        "destination": "",
        "service": "shop/store",
        "dialled": "240.240.0.1:80",
        "endpoint": "",
        "protocol": "http",
        "method": "GET",
        "path": "/buy",
        "status": 200,
        "flag": "",
        "detail": "",
        "rule": "TrafficTarget shop/buying",
        "dry_run": "",
        "id": "",
        "trace": "",
        "host": "",
        "tls_peer": "",
        "tls_version": "",
        "tls_cipher": "",
        "bytes_in": 3,
        "bytes_out": 4,
        "duration_ms": 12.5,
    }


def test_what_callers_choose_can_neither_break_nor_fill_a_line() -> None:
    pipe = Pipe()
    AccessLog("all", pipe)(record(path='/a\n{"forged": 1}\x1b[2J' + "x" * 5000, method="M" * 5000, detail="d" * 5000))
    assert len(pipe.data.splitlines()) == 1
    assert b"\x1b" not in pipe.data
    assert len(pipe.data) < 4096


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("off", []),
        ("denied", ["denied", "misdirected"]),
        ("failed", ["denied", "misdirected", "peer-expired", "node-unreachable", "upstream-broken"]),
        (
            "all",
            ["", "denied", "misdirected", "idle", "peer-expired", "node-unreachable", "upstream-broken", "drained"],
        ),
    ],
)
def test_modes(mode: Any, flags: list[str]) -> None:
    pipe = Pipe()
    log = AccessLog(mode, pipe)
    for flag in ("", "denied", "misdirected", "idle", "peer-expired", "node-unreachable", "upstream-broken", "drained"):
        log(record(flag=flag))
    assert [made["flag"] for made in pipe.lines] == flags


def test_a_call_that_a_dry_run_counts_has_a_line() -> None:
    for mode, written in (("off", 0), ("denied", 1), ("failed", 1), ("all", 1)):
        pipe = Pipe()
        AccessLog(mode, pipe)(record(rule="TrafficTarget shop/t", trial="TrafficTarget shop/t"))  # type: ignore[arg-type]
        assert [made["dry_run"] for made in pipe.lines] == ["TrafficTarget shop/t"] * written


def test_the_denials() -> None:
    assert sorted(DENIALS) == [
        "client-untrusted",
        "cut",
        "denied",
        "egress-denied",
        "misdirected",
        "no-identity",
        "not-a-gateway",
        "own-port",
        "peer-revoked",
    ]


def test_one_callers_flood_does_not_hide_anothers_lines() -> None:
    pipe, clock = Pipe(), Clock()
    log = AccessLog("all", pipe, rate=10, burst=3, clock=clock)
    flood, quiet = Workload("shop", "flood", "flood"), Workload("shop", "quiet", "quiet")
    for _ in range(1000):
        log(record(source=flood))
    log(record(source=quiet, path="/mine"))
    assert pipe.lines[-1]["path"] == "/mine"
    assert len(pipe.lines) < 100
    for number in range(1000):
        log(record(source_address=f"192.0.2.{number % 250}"))
    assert len(pipe.lines) < 200, "strangers have one share, however many addresses"


def test_a_flood_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "CALLERS", 0)
    pipe, clock = Pipe(), Clock()
    log = AccessLog("all", pipe, rate=10, burst=3, clock=clock)
    for _ in range(5):
        log(record())
    assert len(pipe.lines) == 3
    assert log.suppressed == 2
    clock.now = 0.1
    log(record())
    assert [made["kind"] for made in pipe.lines] == ["request"] * 3 + ["suppressed", "request"]
    assert pipe.lines[3]["lines"] == 2
    assert (log.suppressed, log.suppressed_total) == (0, 2)
    assert repr(log) == "<AccessLog all, 2 lines suppressed>"


def test_a_reader_that_is_slow_gets_whole_lines_later() -> None:
    pipe = Pipe(room=100)
    log = AccessLog("all", pipe)
    log(record(path="/1"))
    log(record(path="/2"))
    assert len(pipe.data) == 100
    assert log.suppressed == 1
    pipe.room = 10_000
    log(record(path="/3"))
    assert [made.get("path", made["kind"]) for made in pipe.lines] == ["/1", "suppressed", "/3"]


async def test_what_is_held_is_written_also_when_nothing_more_happens(autojump_clock: MockClock) -> None:
    pipe = Pipe(room=100)
    log = AccessLog("all", pipe)
    log(record(path="/1"))
    log(record(path="/2"))
    pipe.room = 10_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await trio.sleep(1.5)
        nursery.cancel_scope.cancel()
    assert [made.get("path", made["kind"]) for made in pipe.lines] == ["/1", "suppressed"]


def test_a_reader_that_is_gone_is_forgotten() -> None:
    def gone(_: bytes) -> int:
        raise BrokenPipeError

    log = AccessLog("all", gone)
    log(record())
    log(record())
    assert log.suppressed_total == 1


def test_a_pipe_that_nobody_reads_does_not_block() -> None:
    reading, writing = os.pipe()
    try:
        write = unblocking(writing)
        total = 0
        while taken := write(b"x" * 10_000):
            total += taken
        assert total >= 4096
        assert len(os.read(reading, 10_000)) == 10_000
        assert write(b"x" * 10_000) == 4096
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            write(b"x")
    finally:
        os.close(writing)


def test_a_socket_that_nobody_reads_does_not_block() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write = unblocking(ours.fileno())
        while write(b"x" * 10_000):
            pass
        assert theirs.recv(10)
        assert os.get_blocking(ours.fileno())  # the descriptor is as it was for whoever shares it
