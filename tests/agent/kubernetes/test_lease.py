"""Leader election: who may take the lease when, by its own clock alone."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
import trio

from agent.http.client import Response
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable
from agent.kubernetes.lease import DEADLINE, DURATION, Election, Lease, LeaseObject, Metadata, Spec


class Server:
    """An API server with one Lease, and versions as the real one checks them."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.writes: list[str] = []

    async def request(self, method: str, path: str, body: bytes = b"") -> Response:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise ApiUnreachable("nothing listens there")
        if method == "GET":
            if self.lease is None:
                raise ApiError(404, "NotFound", "there is no such Lease", 0)
            return Response(200, msgspec.json.encode(self.lease))
        given = msgspec.json.decode(body)
        held = self.lease["metadata"]["resourceVersion"] if self.lease else ""
        if given["metadata"].get("resourceVersion", "") != held:
            raise ApiError(409, "Conflict", "the object has been modified", 0)
        self.version += 1
        given["metadata"]["resourceVersion"] = str(self.version)
        self.lease = given
        self.writes.append(given["spec"]["holderIdentity"])
        return Response(200, msgspec.json.encode(given))

    @property
    def holder(self) -> str:
        return self.lease["spec"]["holderIdentity"] if self.lease else ""


@pytest.fixture
def server() -> Server:
    return Server()


class Candidate:
    """One that may lead, and notes when it did."""

    def __init__(self, server: Server, name: str) -> None:
        self.lease = Lease(api(server), "edgemesh-system", "edgemesh-authority", name, steady=trio.current_time)
        self.times: list[list[float]] = []

    async def lead(self) -> None:
        self.times.append([trio.current_time()])
        try:
            await trio.sleep_forever()
        finally:
            self.times[-1].append(trio.current_time())

    async def run(self) -> None:
        await self.lease.run(self.lead)


def api(server: Server) -> ApiServer:
    return server  # type: ignore[return-value]


def lease(holder: str, version: str, duration: int = DURATION) -> LeaseObject:
    return LeaseObject(Metadata("one", "ns", version), Spec(holder, duration, None, "2001-01-01T00:00:00.000000Z", 3))


def test_another_ones_lease_is_taken_once_it_has_not_changed_for_its_duration() -> None:
    election = Election("me")
    election.observe(lease("other", "1"), 100.0)
    assert not election.may_take(100.0), "however old the time is that it was renewed at: clocks differ"
    election.observe(lease("other", "1"), 110.0)
    assert not election.may_take(114.9)
    assert election.may_take(115.0), "looking again does not begin the wait anew"
    election.observe(lease("other", "2"), 115.0)
    assert not election.may_take(129.9), "a renewal does"
    election.observe(lease("other", "3", 60), 130.0)
    assert not election.may_take(189.0)
    assert election.may_take(190.0), "it counts as long as the lease says"


def test_a_free_lease_is_taken_at_once() -> None:
    election = Election("me")
    assert election.may_take(0.0)
    election.observe(lease("", "1"), 0.0)
    assert election.may_take(0.0)
    taken = election.taken("now")
    assert (taken.holder_identity, taken.acquire_time, taken.lease_transitions) == ("me", "now", 4)


def test_a_renewal_keeps_the_time_of_acquiring_and_counts_no_transition() -> None:
    election = Election("me")
    election.observe(LeaseObject(Metadata("one", "ns", "1"), Spec("me", 15, "then", "then", 3)), 0.0)
    taken = election.taken("now")
    assert (taken.acquire_time, taken.renew_time, taken.lease_transitions) == ("then", "now", 3)


def overlap(*candidates: Candidate) -> bool:
    spans = sorted(tuple(span) for candidate in candidates for span in candidate.times)
    return any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


async def test_one_of_three_leads_and_the_next_takes_over_at_once(server: Server, autojump_clock: object) -> None:
    candidates = [Candidate(server, name) for name in ("a", "b", "c")]
    scopes: dict[str, trio.CancelScope] = {}

    async def run(candidate: Candidate, name: str) -> None:
        with trio.CancelScope() as scopes[name]:
            await candidate.run()

    async with trio.open_nursery() as nursery:
        for candidate, name in zip(candidates, "abc", strict=True):
            nursery.start_soon(run, candidate, name)
        await trio.sleep(60)
        assert sum(candidate.lease.leads for candidate in candidates) == 1
        first = server.holder
        scopes[first].cancel()
        await trio.sleep(6)
        assert server.holder not in (first, "")
        nursery.cancel_scope.cancel()
    assert not overlap(*candidates)


async def test_a_leader_that_cannot_renew_stops_before_another_begins(server: Server, autojump_clock: object) -> None:
    class Deaf(Server):
        async def request(self, method: str, path: str, body: bytes = b"") -> Response:
            if self.down:
                raise ApiUnreachable("cut off")
            return await server.request(method, path, body)

    cut = Deaf()
    one, two = Candidate(cut, "one"), Candidate(server, "two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(5)
        nursery.start_soon(two.run)
        await trio.sleep(30)
        assert (one.lease.leads, two.lease.leads) == (True, False)
        cut.down, began = True, trio.current_time()
        with trio.fail_after(2 * DURATION):  # the other one looks at times of its own, by chance
            while not two.lease.leads:
                await trio.sleep(0.1)
        assert not one.lease.leads
        assert one.times[0][1] - began <= DEADLINE
        assert two.times[0][0] > one.times[0][1]
        assert "cut off" in one.lease.trouble
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_is_no_lease(server: Server, autojump_clock: object) -> None:
    class Stuck(Server):
        async def request(self, method: str, path: str, body: bytes = b"") -> Response:
            if self.down:
                await trio.sleep_forever()
            return await super().request(method, path, body)

    stuck = Stuck()
    one = Candidate(stuck, "one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(5)
        assert one.lease.leads
        stuck.down, began = True, trio.current_time()
        await trio.sleep(DEADLINE + 0.1)
        assert not one.lease.leads
        assert one.times[0][1] - began <= DEADLINE
        nursery.cancel_scope.cancel()


async def test_of_two_that_see_a_free_lease_one_gets_it(server: Server, autojump_clock: object) -> None:
    candidates = [Candidate(server, name) for name in ("a", "b")]
    async with trio.open_nursery() as nursery:
        for candidate in candidates:
            nursery.start_soon(candidate.run)
        await trio.sleep(1)
        assert sum(candidate.lease.leads for candidate in candidates) == 1
        nursery.cancel_scope.cancel()
    assert server.writes[-1] == "", "it was given back"
