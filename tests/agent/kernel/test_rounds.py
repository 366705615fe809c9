"""rounds.py: when a round is made, and that a table which others may change is put back at once."""

import errno

import pytest
import trio

from agent.kernel import rounds as module
from agent.kernel.rounds import Rounds


class Shared:
    """A table that somebody else may change. `events`: an OSError that its repair raises, or None."""

    owned, lent = False, False

    def __init__(self):
        self.events, self.repaired = [], []
        self.happens, self.gone = trio.Event(), False

    async def changed(self):
        await self.happens.wait()
        self.happens = trio.Event()
        if self.gone:
            raise trio.ClosedResourceError

    def repair(self):
        self.repaired.append(trio.current_time())
        if self.events and (error := self.events.pop(0)):
            raise error


class World:
    def __init__(self, folder):
        self.folder, self.made, self.tables, self.runtimes, self.units = folder, 0, [], [], []
        self.rounds = Rounds(self.steps, lambda: self.tables, lambda: self.runtimes, lambda: self.units)

    def steps(self):
        self.made += 1
        yield

    async def reaches(self, number):
        with trio.fail_after(30):
            while self.made < number:
                await trio.sleep(0.001)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module.netns, "FOLDER", str(tmp_path / "netns"))
    monkeypatch.setattr(module, "POLL", 3600)
    return World(tmp_path)


async def test_a_round_is_made_when_it_is_called_for_and_in_any_case_after_a_while(world, autojump_clock):
    beside = trio.Event()

    async def runs_beside():
        beside.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rounds.run, runs_beside)
        await trio.sleep(1)
        assert world.made == 1
        assert beside.is_set()
        world.rounds.call()
        await trio.sleep(1)
        assert world.made == 2
        await trio.sleep(3600)
        assert world.made == 3
        nursery.cancel_scope.cancel()


async def test_who_waits_for_the_end_of_a_round_is_told(world, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rounds.run, trio.sleep_forever)
        await trio.sleep(1)
        before = world.made
        world.rounds.call()
        with trio.fail_after(1):
            await world.rounds.over()
        assert world.made == before + 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("where", ["netns", "runtimes", "units"])
async def test_a_new_name_calls_for_a_round(world, where):
    folder = world.folder / where
    folder.mkdir()
    if where != "netns":
        getattr(world, where).extend([folder, world.folder / "no such runtime"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rounds.run, trio.sleep_forever)
        await world.reaches(1)
        await trio.sleep(0.01)
        before = world.made
        (folder / "new").mkdir()
        await world.reaches(before + 1)
        nursery.cancel_scope.cancel()


async def test_where_nothing_can_be_watched_the_poll_has_to_do(world, monkeypatch, autojump_clock, caplog):
    def none():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module.inotify, "Inotify", none)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rounds.run, trio.sleep_forever)
        await trio.sleep(3601)
        assert world.made == 2
        assert "Too many open files; looking four times a second" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_table_that_others_may_change_is_put_back_at_once_and_not_without_a_pause(
    world, autojump_clock, caplog
):
    table = Shared()
    world.tables = [table]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rounds.run, trio.sleep_forever)
        await trio.sleep(1)
        table.events = [OSError(errno.ENOBUFS, "No buffer space available")]
        table.happens.set()
        await trio.sleep(1)
        assert table.repaired == [1.0]
        assert "No buffer space available; trying again" in caplog.text
        table.happens.set()  # and once more, in the pause
        await trio.sleep(module._GUARD / 2)
        table.happens.set()
        await trio.sleep(1)
        assert [round(at - 2.0, 4) for at in table.repaired[1:]] == [0.0, module._GUARD]
        table.gone = True
        table.happens.set()
        await trio.sleep(1)
        assert len(table.repaired) == 3, "we let go of it, and the rest goes on"
        nursery.cancel_scope.cancel()
