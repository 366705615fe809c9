"""A call through this very program: it says "" only when an allowed call is served and another one is refused."""

import pytest
import trio

from agent.daemon import self_test
from policy.snapshot import NO_IDENTITY, PERMISSIVE, Snapshot
from tests.compiled import needs_lane

LANES = [False, pytest.param(True, marks=needs_lane)]


@pytest.mark.parametrize("lane", LANES)
async def test_a_sound_program_passes_and_leaves_nothing(lane):
    with trio.fail_after(30):
        assert await self_test.fault(lane) == ""
        assert await self_test.fault(lane) == ""


@needs_lane
async def test_the_native_lane_is_asked_too(monkeypatch):
    made = []
    proxy = self_test.Proxy
    monkeypatch.setattr(self_test, "Proxy", lambda *words, **more: made.append(proxy(*words, **more)) or made[-1])
    assert await self_test.fault(True) == ""
    assert made[0].fast.lane.stats["served"] >= 1


@pytest.mark.parametrize("lane", LANES)
async def test_one_that_admits_everybody_is_not_well(lane, monkeypatch):
    monkeypatch.setattr(Snapshot, "authorize", lambda *_: PERMISSIVE)
    assert "to /other was answered" in await self_test.fault(lane)


@pytest.mark.parametrize("lane", LANES)
async def test_one_that_refuses_everybody_is_not_well(lane, monkeypatch):
    monkeypatch.setattr(Snapshot, "authorize", lambda *_: NO_IDENTITY)
    assert await self_test.fault(lane) == "a call through itself to /allowed was answered 403 instead of 200"


async def test_one_that_hangs_is_not_well(monkeypatch, autojump_clock):
    async def pick(*_, **__):
        await trio.sleep_forever()

    monkeypatch.setattr(self_test, "outbound", pick)
    assert await self_test.fault(False) == "a call through itself was not answered within 5 s"


async def test_one_that_has_no_server_is_not_well(monkeypatch):
    async def closes(stream):
        await stream.aclose()

    monkeypatch.setattr(self_test, "_serve", closes)
    assert "instead of 200" in await self_test.fault(False)
