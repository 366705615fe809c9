"""Sockets that outlive a process: whose they are, what the manager keeps, and that a crash in between loses none."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.system.cgroup import Cgroup
from agent.system.fd_store import FdStore
from agent.system.service_manager import ServiceManager
from tests.manager import Mailbox
from tests.ports import free_port

Door = Callable[[], socket.socket]
Start = Callable[..., FdStore]


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    mailbox = Mailbox(tmp_path / "notify")
    yield mailbox
    mailbox.close()


@pytest.fixture
def start(mailbox: Mailbox) -> Iterator[Start]:
    """A daemon's FdStore as its next start has it: with copies of what the manager keeps."""
    made: list[FdStore] = []

    def start(silent: bool = False) -> FdStore:
        mailbox.read()
        given = {name: [os.dup(number) for number in numbers] for name, numbers in mailbox.store.items()}
        made.append(FdStore(given, ServiceManager({"NOTIFY_SOCKET": str(mailbox.path)}), silent))
        return made[-1]

    yield start
    for kept in made:
        kept.close()
        for sock in (sock for sockets in kept._held.values() for sock in sockets):
            sock.close()
        assert kept.supervisor._sock is not None
        kept.supervisor._sock.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = []

    def door() -> socket.socket:
        made.append(socket.create_server(("127.0.0.1", 0)))
        return made[-1]

    yield door
    for sock in made:
        sock.close()


def kept_by(mailbox: Mailbox) -> dict[str, int]:
    mailbox.read()
    return {name: len(numbers) for name, numbers in mailbox.store.items()}


def test_what_is_held_is_kept_and_comes_back(mailbox: Mailbox, start: Start, door: Door) -> None:
    first = start()
    doors = [door(), door()]
    first.hold("namespace 7", doors)
    assert kept_by(mailbox) == {"namespace 7": 2}
    second = start()
    assert second.names() == ["namespace 7"]
    back = second.take("namespace 7")
    assert [sock.getsockname() for sock in back] == [sock.getsockname() for sock in doors]
    assert second.take("namespace 7") == [], "once"
    assert not any(sock.getblocking() for sock in back), (
        "waiting is a property of all copies, and the one that serves must not wait"
    )
    for sock in back:
        sock.close()


def test_a_caller_that_dialled_meanwhile_is_answered_by_the_next(mailbox: Mailbox, start: Start) -> None:
    first = start()
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    first.hold("namespace 7", [sock])
    mailbox.read()
    sock.close()  # killed
    with socket.create_connection(address) as caller:
        (back,) = start().take("namespace 7")
        back.settimeout(10)
        answered, _ = back.accept()
        with answered, back:
            answered.sendall(b"here")
            assert caller.recv(10) == b"here"


def test_copies_of_what_is_kept_are_never_let_go_of_for_a_moment(mailbox: Mailbox, start: Start, door: Door) -> None:
    """A daemon that is killed between letting go and keeping would lose who waits."""
    start().hold("namespace 7", [door(), door()])
    second = start()
    given = second.take("namespace 7")
    copies = [sock.dup() for sock in given]
    for sock in given:
        sock.close()
    said = len(mailbox.messages)
    second.hold("namespace 7", copies)
    more = [*copies, door()]
    second.hold("namespace 7", more)
    assert kept_by(mailbox) == {"namespace 7": 3}
    assert [message.get("FDSTOREREMOVE") for _, message in mailbox.messages[said:]] == [None]
    second.hold("namespace 7", more[1:])
    assert kept_by(mailbox) == {"namespace 7": 2}, "one of them can only be let go of with the others"
    copies[0].close()


def test_descriptors_whose_numbers_are_used_again_are_others(mailbox: Mailbox, start: Start) -> None:
    kept = start()
    old = socket.create_server(("127.0.0.1", 0))
    kept.hold("a", [old])
    number = old.fileno()
    old.close()
    new = socket.create_server(("127.0.0.1", 0))
    assert new.fileno() == number
    kept.hold("a", [new])
    mailbox.read()
    (stored,) = mailbox.store["a"]
    assert os.fstat(stored).st_ino == os.fstat(number).st_ino
    new.close()


def test_what_nobody_asks_for_is_closed_and_let_go(mailbox: Mailbox, start: Start, door: Door) -> None:
    first = start()
    first.hold("namespace 7", [door()])
    first.hold("namespace 8", [door()])
    second = start()
    (taken,) = second.take("namespace 7")
    second.hold("namespace 7", [taken])
    second.forget_rest()
    assert kept_by(mailbox) == {"namespace 7": 1}
    assert second.names() == []
    second.drop("namespace 7")
    second.drop("namespace 7")
    assert kept_by(mailbox) == {}
    taken.close()


def test_what_somebody_will_ask_for_soon_is_spared(mailbox: Mailbox, start: Start, door: Door) -> None:
    first = start()
    first.hold("health", [door()])
    first.hold("namespace 8", [door()])
    second = start()
    second.forget_rest(spared=("health", "metrics"))
    assert second.names() == ["health"]
    assert kept_by(mailbox) == {"health": 1}
    second.forget_rest()
    assert second.names() == []
    assert kept_by(mailbox) == {}


def test_what_could_not_be_used_yet_is_there_for_the_next_try(mailbox: Mailbox, start: Start, door: Door) -> None:
    start().hold("namespace 7", [door()])
    second = start()
    second.give_back("namespace 7", second.take("namespace 7"))
    second.give_back("namespace 9", [])
    assert second.names() == ["namespace 7"]
    assert kept_by(mailbox) == {"namespace 7": 1}


def test_what_is_no_socket_is_closed(mailbox: Mailbox, tmp_path: Path) -> None:
    number = os.open(tmp_path, os.O_RDONLY)
    kept = FdStore({"a": [number]}, ServiceManager({"NOTIFY_SOCKET": str(mailbox.path)}))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert kept.names() == []
    mailbox.read()
    assert mailbox.messages[-1][1] == {"FDSTOREREMOVE": "1", "FDNAME": "a"}
    assert kept.supervisor._sock is not None
    kept.supervisor._sock.close()


def test_one_that_may_not_take_over_yet_says_nothing_to_the_manager(mailbox: Mailbox, start: Start, door: Door) -> None:
    """The daemon that runs goes on when this one proves no good: what is kept is to be its own still."""
    before = start()
    before.hold("namespace 7", [door()])
    before.hold("gone", [door()])
    after = start(silent=True)
    said = len(mailbox.messages)
    after.hold("namespace 7", [*after.take("namespace 7"), door()])
    after.hold("namespace 9", [door()])
    after.drop("namespace 9")
    mailbox.read()
    assert len(mailbox.messages) == said
    after.speak()
    assert kept_by(mailbox) == {"namespace 7": 2, "gone": 1}
    after.forget_rest()
    assert kept_by(mailbox) == {"namespace 7": 2}


def test_what_a_successor_told_that_did_not_go_on_is_put_right(mailbox: Mailbox, start: Start, door: Door) -> None:
    before = start()
    ours = [door(), door()]
    before.hold("namespace 7", ours)
    after = start(silent=True)
    given = after.take("namespace 7")
    after.hold("namespace 7", [door()])
    after.speak()
    for sock in given:
        sock.close()
    assert kept_by(mailbox) == {"namespace 7": 1}
    before.say_again()
    assert kept_by(mailbox) == {"namespace 7": 2}
    inodes = {os.fstat(number).st_ino for number in mailbox.store["namespace 7"]}
    assert inodes == {os.fstat(sock.fileno()).st_ino for sock in ours}


# listeners of the daemon's own


async def test_a_listener_is_made_once_and_found_by_its_address(mailbox: Mailbox, start: Start) -> None:
    first = start()
    address = ("127.0.0.1", free_port())
    one = first.listener("metrics", address, 16)
    two = first.listener("metrics", address, 16)
    assert kept_by(mailbox) == {"metrics": 1}
    await one.aclose()
    await two.aclose()
    second = start()
    three = second.listener("metrics", address, 16)
    assert three.socket.getsockname() == address
    await three.aclose()
    first.close()
    with socket.create_connection(address):
        pass  # second has it, and who serves it may come back
    second.close()
    mailbox.drop_all()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_a_listener_at_another_address_is_another(mailbox: Mailbox, start: Start, door: Door) -> None:
    start().hold("metrics", [door(), door()])
    address = ("127.0.0.1", free_port())
    listener = start().listener("metrics", address, 16)
    assert listener.socket.getsockname() == address
    assert kept_by(mailbox) == {"metrics": 1}
    await listener.aclose()


def test_an_address_that_is_taken_leaves_nothing_open(start: Start, door: Door) -> None:
    kept = start()
    with pytest.raises(OSError, match="in use"):
        kept.listener("metrics", door().getsockname(), 16)
    assert kept.everything() == {}


def test_everything_is_what_a_successor_gets(start: Start, door: Door) -> None:
    kept = start()
    one, two = door(), socket.create_server(("127.0.0.1", 0))
    kept.hold("a", [one, two])
    two.close()
    assert kept.everything() == {"a": [one.fileno()]}


def test_where_a_socket_was_made_is_kept_with_it(mailbox: Mailbox, start: Start, door: Door) -> None:
    """A service that is started again has a new cgroup; sockets stay in the one where they were made."""
    old, new = Cgroup(2, 71), Cgroup(2, 72)
    first = start()
    assert first.live_in(old) == ()
    doors = [door(), door()]
    first.hold("unit 0 shop/till", doors)
    assert kept_by(mailbox) == {"unit 0 shop/till @2.71": 2}
    second = start()
    assert second.names() == ["unit 0 shop/till"]
    assert second.live_in(new) == (old,)
    back = second.take("unit 0 shop/till")
    copies = [sock.dup() for sock in back]  # as sockets.open_doors shares them
    for sock in back:
        sock.close()
    second.hold("unit 0 shop/till", [*copies, door()])
    assert kept_by(mailbox) == {"unit 0 shop/till @2.71": 2, "unit 0 shop/till @2.72": 1}
    assert {name: len(numbers) for name, numbers in second.everything().items()} == kept_by(mailbox)
    third = start()
    assert third.names() == ["unit 0 shop/till"]
    assert third.live_in(Cgroup(2, 73)) == (old, new)
    taken = third.take("unit 0 shop/till")
    assert len(taken) == 3
    second.drop("unit 0 shop/till")
    assert kept_by(mailbox) == {}
    for sock in (*copies, *taken):
        sock.close()


@pytest.mark.parametrize("name", ["till @", "till @2", "till @2.x", "till @.7", "@2.7"])
def test_a_name_that_only_looks_like_one_with_a_birth_is_a_name(start: Start, name: str) -> None:
    sock = socket.socket()
    kept = FdStore({name: [sock.detach()]})
    assert kept.names() == [name]
    assert kept.live_in(Cgroup(1, 1)) == ()
    kept.close()


def test_what_a_successor_told_of_sockets_with_births_is_put_right_too(
    mailbox: Mailbox, start: Start, door: Door
) -> None:
    """It lives in the same cgroup, and what it opened itself was made there."""
    first = start()
    first.live_in(Cgroup(2, 71))
    first.hold("unit 0 shop/till", [door()])
    assert kept_by(mailbox) == {"unit 0 shop/till @2.71": 1}
    told = ServiceManager({"NOTIFY_SOCKET": str(mailbox.path)})
    told.store("unit 0 shop/till @2.71", [door().fileno()])
    assert kept_by(mailbox) == {"unit 0 shop/till @2.71": 2}
    first.say_again()
    assert kept_by(mailbox) == {"unit 0 shop/till @2.71": 1}
    assert told._sock is not None
    told._sock.close()
