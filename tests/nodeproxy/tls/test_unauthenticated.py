"""Places for who has proved nothing: the oldest goes, one source never has them all, and who is known has a room of his own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from nodeproxy.tls.unauthenticated import PACE_OF_SOURCE, PACE_OF_STRANGERS, Anteroom, Waiting, source


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::7", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_is_one_source_however_many_addresses_it_has(address: str, counted: str) -> None:
    assert source(address) == counted


class Crowd:
    """Each of them waits in a task of his own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.room = Anteroom(most=6, of_source=3)
        self._nursery = nursery

    async def comes(self, address: str, known: bool = False) -> Waiting:
        return await self._nursery.start(self._wait, address, known)  # type: ignore[no-any-return]

    async def _wait(self, address: str, known: bool, task_status: trio.TaskStatus[Waiting]) -> None:
        with self.room.waits(address, known) as waiting:
            task_status.started(waiting)
            await trio.sleep_forever()


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        yield crowd
        nursery.cancel_scope.cancel()
    assert not len(crowd.room)
    assert not crowd.room._by_source


async def test_who_has_waited_longest_of_one_source_makes_room_for_it(crowd: Crowd) -> None:
    other = await crowd.comes("192.0.2.9")
    waiting = [await crowd.comes("192.0.2.1") for _ in range(5)]
    assert [one.sent_away for one in waiting] == [True, True, False, False, False]
    assert not other.sent_away
    assert len(crowd.room) == 4
    assert crowd.room.sent_away == 2


async def test_addresses_of_one_network_are_one_source(crowd: Crowd) -> None:
    waiting = [await crowd.comes(f"2001:db8::{number:x}") for number in range(1, 6)]
    assert [one.sent_away for one in waiting] == [True, True, False, False, False]


async def test_when_all_places_are_taken_the_oldest_of_all_goes(crowd: Crowd) -> None:
    waiting = [await crowd.comes(f"192.0.2.{number}") for number in range(9)]
    assert [one.sent_away for one in waiting] == [True] * 3 + [False] * 6


async def test_strangers_take_no_place_of_who_is_known_and_the_other_way_round(crowd: Crowd) -> None:
    stranger, known = await crowd.comes("192.0.2.200"), await crowd.comes("10.0.0.1", known=True)
    for number in range(5):
        await crowd.comes(f"192.0.2.{number}")
    assert not stranger.sent_away
    await crowd.comes("192.0.2.100")
    assert stranger.sent_away
    assert not known.sent_away
    for number in range(2, 8):
        await crowd.comes(f"10.0.0.{number}", known=True)
    assert known.sent_away, "the known are bounded too"


async def test_who_has_left_has_no_place(crowd: Crowd) -> None:
    for _ in range(10):
        with crowd.room.waits("192.0.2.1", False) as waiting:
            pass
        assert not waiting.sent_away


def test_who_knocks_too_often_does_not_begin_and_others_do() -> None:
    room = Anteroom()
    assert sum(room.admits("192.0.2.1", False, 0.0) for _ in range(1000)) == PACE_OF_SOURCE[0]
    assert room.admits("192.0.2.2", False, 0.0)
    assert sum(room.admits("192.0.2.1", False, 1.0) for _ in range(1000)) == PACE_OF_SOURCE[1]
    assert (
        sum(room.admits(f"198.51.100.{number}", False, 1.0) for number in range(250) for _ in range(10))
        <= PACE_OF_STRANGERS[0] + 200
    )
    assert room.admits("10.0.0.1", True, 1.0), "who is known has his own pace"
    assert room.too_often > 2000


def test_sources_that_are_remembered_are_bounded() -> None:
    room = Anteroom()
    for number in range(5000):
        room.admits(f"2001:db8:{number:x}::1", False, 0.0)
    assert len(room._paces) == 4096
