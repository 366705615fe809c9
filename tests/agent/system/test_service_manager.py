"""What the service manager is told, and what it gives: a mailbox stands for systemd (tests/manager.py)."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from agent.system import service_manager as module
from agent.system.service_manager import ServiceManager
from tests.manager import Mailbox


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    mailbox = Mailbox(tmp_path / "notify")
    yield mailbox
    mailbox.close()


@pytest.fixture
def supervisor(mailbox: Mailbox) -> Iterator[ServiceManager]:
    made = ServiceManager({"NOTIFY_SOCKET": str(mailbox.path)})
    yield made
    assert made._sock is not None
    made._sock.close()


def test_without_a_manager_nothing_happens() -> None:
    nobody = ServiceManager({})
    nobody.tell("READY=1")
    nobody.store("a", [0])
    nobody.forget("a")
    assert not nobody.given
    assert nobody.watchdog == 0


def test_what_is_said(mailbox: Mailbox, supervisor: ServiceManager) -> None:
    supervisor.tell("READY=1", "STATUS=all is well")
    supervisor.tell("MAINPID=7")
    assert mailbox.read() == [(os.getpid(), {"READY": "1", "STATUS": "all is well"}), (os.getpid(), {"MAINPID": "7"})]


def test_an_abstract_socket() -> None:
    name = f"edgemesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        made = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        made.tell("READY=1")
        assert listener.recv(100) == b"READY=1"
        assert made._sock is not None
        made._sock.close()


def test_a_manager_that_is_gone_is_told_in_the_log_and_ends_nothing(
    mailbox: Mailbox, supervisor: ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.path.unlink()
    supervisor.tell("READY=1")
    assert "the service manager cannot be told READY=1" in caplog.text


def test_more_descriptors_than_one_message_holds_are_kept_and_let_go(
    mailbox: Mailbox, supervisor: ServiceManager
) -> None:
    socks = [socket.socket() for _ in range(450)]
    try:
        supervisor.store("many", [sock.fileno() for sock in socks])
        mailbox.read()
        assert len(mailbox.store["many"]) == 450
        assert [said.get("FDNAME") for _, said in mailbox.messages] == ["many"] * 3
        supervisor.store("other", [socks[0].fileno()])
        supervisor.forget("many")
        mailbox.read()
        assert list(mailbox.store) == ["other"]
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("name", ["a:b", "café\n", "x" * 400, "unit 3 shop/buyer"])
def test_names_are_such_as_the_manager_takes(mailbox: Mailbox, supervisor: ServiceManager, name: str) -> None:
    with socket.socket() as sock:
        supervisor.store(name, [sock.fileno()])
        mailbox.read()  # which asserts it
        assert len(mailbox.store) == 1
        supervisor.forget(name)
        mailbox.read()
        assert not mailbox.store


# what is given


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Three that follow one another, where descriptors that are given begin; the one behind them is closed."""
    first = next(first for first in itertools.count(200) if all(map(closed, range(first, first + 4))))
    for at in range(3):
        with socket.socket() as sock:
            os.dup2(sock.fileno(), first + at)
    monkeypatch.setattr(module, "_FIRST", first)
    yield [first, first + 1, first + 2]
    for at in range(3):
        os.close(first + at)


def closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def given(**environment: str) -> tuple[dict[str, list[int]], dict[str, str]]:
    left = {"LISTEN_PID": str(os.getpid()), **environment}
    return dict(ServiceManager(left).given), left


def test_descriptors_come_by_their_names_and_are_not_inherited(descriptors: list[int]) -> None:
    found, left = given(LISTEN_FDS="3", LISTEN_FDNAMES="a:b:a")
    assert found == {"a": [descriptors[0], descriptors[2]], "b": [descriptors[1]]}
    assert left == {}, "they are not our children's"
    assert not any(map(os.get_inheritable, descriptors))


def test_names_that_are_missing_and_descriptors_that_are_not_there(descriptors: list[int]) -> None:
    assert given(LISTEN_FDS="2", LISTEN_FDNAMES="a")[0] == {"a": [descriptors[0]], "": [descriptors[1]]}
    assert given(LISTEN_FDS="4", LISTEN_FDNAMES="a:b:c:d")[0].keys() == {"a", "b", "c"}


@pytest.mark.parametrize("fds", ["", "x", "-1", "3x"])
def test_a_number_that_is_none(descriptors: list[int], fds: str) -> None:
    assert given(LISTEN_FDS=fds, LISTEN_FDNAMES="a:b:c")[0] == {}


def test_what_was_given_to_another_process_is_not_ours(descriptors: list[int]) -> None:
    assert given(LISTEN_PID="1", LISTEN_FDS="3", LISTEN_FDNAMES="a:b:c")[0] == {}


# the watchdog


async def test_it_says_that_it_lives_at_a_third_of_the_period_while_it_is_well(
    mailbox: Mailbox, autojump_clock: MockClock
) -> None:
    made = ServiceManager(
        {"NOTIFY_SOCKET": str(mailbox.path), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    )
    healthy = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch, lambda: healthy)
        await trio.sleep(2.5)
        mailbox.read()
        assert mailbox.said("WATCHDOG") == ["1"] * 3
        healthy = False
        await trio.sleep(10)
        mailbox.read()
        assert mailbox.said("WATCHDOG") == ["1"] * 3
        nursery.cancel_scope.cancel()
    assert made._sock is not None
    made._sock.close()


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
async def test_nobody_watches(environment: dict[str, str]) -> None:
    await ServiceManager(environment).watch(lambda: True)


def test_a_successor_is_watched_over_as_well() -> None:
    """It starts with our environment, and is the main process later."""
    environment = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    assert ServiceManager(environment).watchdog == 3
    assert environment == {"WATCHDOG_USEC": "3000000"}, "and not for our pid alone"
