"""A task of the daemon's own that fails begins anew, and ends nothing else."""

from __future__ import annotations

import errno
import logging
import os

import pytest
import trio

from nodeproxy.housekeeping import Housekeeping


class Task:
    """Fails as often as it is told to, then runs."""

    def __init__(self, *faults: BaseException) -> None:
        self.faults = list(faults)
        self.starts = 0
        self.runs = trio.Event()

    async def __call__(self) -> None:
        self.starts += 1
        if self.faults:
            raise self.faults.pop(0)
        self.runs.set()
        await trio.sleep_forever()


def lack(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "fault",
    [
        *(
            lack(number)
            for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EINTR, errno.EAGAIN)
        ),
        MemoryError(),
        RuntimeError("can't start new thread"),
        ValueError("a fault of ours"),
        ExceptionGroup("of a nursery", [lack(errno.EMFILE), lack(errno.ENOMEM)]),
    ],
    ids=repr,
)
async def test_what_fails_begins_anew_and_status_says_so_until_it_has_run_for_a_while(
    fault: BaseException, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    house, task = Housekeeping(trio.current_time), Task(fault)
    nursery.start_soon(house.keep, "certificates", task)
    await trio.sleep(0.5)
    [problem] = house.problems
    assert problem.object == "certificates"
    assert "tried again" in problem.message
    await task.runs.wait()
    assert house.problems, "it may fail again at once"
    await trio.sleep(20)
    assert not house.problems
    nursery.cancel_scope.cancel()


async def test_it_waits_longer_while_it_goes_on_failing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    house, task = Housekeeping(trio.current_time), Task(*(lack(errno.EMFILE) for _ in range(1000)))
    nursery.start_soon(house.keep, "certificates", task)
    await trio.sleep(3600)
    assert 50 < task.starts < 80, "once a minute in the long run"
    nursery.cancel_scope.cancel()


async def test_what_is_cancelled_ends_also_when_it_fails_meanwhile() -> None:
    house, fails = Housekeeping(), trio.Event()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                fails.set()
                raise lack(errno.EMFILE)

    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.keep, "certificates", run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert fails.is_set()
    assert not scope.cancelled_caught


async def test_what_returns_is_done() -> None:
    house = Housekeeping()

    async def run() -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        await house.keep("certificates", run)
    assert not house.problems


async def test_a_lack_is_a_line_and_a_fault_of_ours_tells_its_place(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    house = Housekeeping(trio.current_time)
    for fault in (lack(errno.EMFILE), ValueError("of ours")):
        task = Task(fault)
        nursery.start_soon(house.keep, "certificates", task)
        await task.runs.wait()
    lack_record, ours = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "Too many open files" in lack_record.getMessage()
    assert lack_record.exc_info is None
    assert ours.exc_info is not None
    nursery.cancel_scope.cancel()
