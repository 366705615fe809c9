"""The tour with a town that only pretends: what it accepts, what it fails, and that it waits no longer than it says."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from agent.demo import mesh, tour
from agent.demo.judge import Sample
from agent.demo.mesh import is_ready
from agent.demo.plan import HOSTS, Site, hosts, sites
from agent.demo.processes import StartFailed
from agent.demo.steps import OUTAGE, STEPS
from agent.demo.tour import Tour

SOCKET = Path("/run/x/admin.sock")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeTown:
    """Counters that move as `rates` (books a second by owner) say; the policy of a step arrives `delay` seconds after its files."""

    notes = ["mysql is a stand-in"]  # noqa: RUF012
    network = SimpleNamespace(hosts=HOSTS, ipv6=True, name=lambda host: f"em-{host}", sites=(Site(),))
    folder = config = SimpleNamespace(path="/run/x/config")
    mesh = SimpleNamespace(socket=lambda site: f"/run/x/{site.name}.sock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ended = ""
        self.processes = SimpleNamespace(ended=lambda: self.ended)
        self.counts = dict.fromkeys(
            ("bookbuyer", "bookthief", "bookstore-v1", "bookstore-v2", "bookwarehouse", "mysql"), 0.0
        )
        self.override: dict[str, float] = {}
        self.delay = 0.0
        self.applied: list[str] = []
        self.step = STEPS[0]
        self.since = self.seen = clock.now
        self.previous: dict[str, float] = {}
        self.rates: dict[str, float] = {}
        self.tries = 0.0

    def apply(self, step) -> None:
        self.applied.append(step.title)
        self.previous, self.since = self.rates, self.clock.now
        speed = {"rises": 3.0, "half": 1.5, "frozen": 0.0, "absent": 0.0}
        self.rates = {owner: speed[what] for owner, what in step.expectations.items()} | self.override
        sold = self.rates["bookstore-v1"] + self.rates["bookstore-v2"]
        self.rates = {"bookwarehouse": sold, "mysql": sold} | self.rates

    def start_mesh(self, ready) -> None:
        self.ready = ready

    def sample(self) -> Sample:
        passed, self.seen = self.clock.now - self.seen, self.clock.now
        rates = self.rates if self.clock.now - self.since >= self.delay else self.previous
        for owner, rate in rates.items():
            self.counts[owner] += rate * passed
        self.tries += 6 * passed
        counts = {owner: int(count) for owner, count in self.counts.items()}
        return Sample(self.clock.now, counts, dict.fromkeys(counts, int(self.tries)), {"bookthief": "403 Forbidden"})

    def stored(self) -> int:
        return int(self.counts["mysql"])


@pytest.fixture
def setting(monkeypatch):
    clock = Clock()
    tried = []

    def attempt(trial, namespace):
        tried.append((trial, namespace))
        return ""

    monkeypatch.setattr(tour, "time", clock)
    monkeypatch.setattr(tour.trials, "attempt", attempt)
    town = FakeTown(clock)
    out = io.StringIO()
    return SimpleNamespace(
        clock=clock, town=town, tried=tried, out=out, tour=Tour(town, False, Console(file=out, width=150))
    )


def test_a_mesh_that_does_as_it_is_told_passes_every_step(setting):
    assert setting.tour.run(9, hold=False) == 0
    assert setting.town.applied == [STEPS[0].title, *[step.title for step in STEPS]]
    assert "all 9 held" in setting.out.getvalue()
    assert "mysql is a stand-in" in setting.out.getvalue()
    assert {namespace for _, namespace in setting.tried} == {"em-outsider", "em-bookbuyer", "em-bookthief"}


def test_a_change_that_takes_a_while_is_waited_for(setting):
    setting.town.delay = 5.0
    assert setting.tour.run(3, hold=False) == 0


def test_a_thief_that_gets_books_fails_the_step_and_is_named(setting):
    setting.town.override = {"bookthief": 1.0}
    assert setting.tour.run(3, hold=False) == 1
    text = setting.out.getvalue()
    assert "step 2: permissive mode off, no policy: nobody may: FAILED" in text
    assert (
        "bookthief: expected frozen, found +1, expected none" in text
        or "bookthief: expected frozen, found +0 in" in text
    )
    assert "FAILED: step 2, 3" in text


def test_a_buyer_that_gets_nothing_fails_within_bounded_time(setting):
    setting.town.override = {"bookbuyer": 0.0}
    began = setting.clock.now
    assert setting.tour.run(1, hold=False) == 1
    assert setting.clock.now - began < tour.STEP_SECONDS + 3
    assert "bookbuyer: expected rises, found +0" in setting.out.getvalue()


def test_a_curl_that_comes_out_wrong_fails_the_step(setting, monkeypatch):
    monkeypatch.setattr(
        tour.trials, "attempt", lambda trial, _: "expected a refusal, got 200" if trial.who == "outsider" else ""
    )
    assert setting.tour.run(1, hold=False) == 1
    assert (
        "curl outsider -> http://10.71.0.13:14001/books-bought: expected a refusal, got 200" in setting.out.getvalue()
    )


def test_a_warehouse_that_stays_behind_fails_the_step(setting):
    setting.town.override = {"mysql": 0.0}
    assert setting.tour.run(1, hold=False) == 1
    assert "mysql has counted" in setting.out.getvalue()


def test_a_database_that_holds_less_than_it_confirmed_fails_the_step(setting, monkeypatch):
    monkeypatch.setattr(setting.town, "stored", lambda: 1)
    assert setting.tour.run(1, hold=False) == 1
    assert "mysql holds 1 books after it confirmed" in setting.out.getvalue()


def test_a_daemon_that_dies_fails_the_step_with_its_log(setting):
    setting.town.override = {"bookbuyer": 0.0}
    setting.town.ended = "edgemesh ended with status 1:\nTraceback"
    assert setting.tour.run(1, hold=False) == 1
    assert "edgemesh ended with status 1" in setting.out.getvalue()


def test_hold_goes_straight_to_its_step_and_stays_until_interrupted(setting, monkeypatch):
    naps = []

    def sleep(seconds):
        setting.clock.now += seconds
        naps.append(seconds)
        if naps.count(0.5) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(setting.clock, "sleep", sleep)
    assert setting.tour.run(4, hold=True) == 0
    assert set(setting.town.applied) == {STEPS[3].title}
    text = setting.out.getvalue()
    assert "netns exec em-bookthief curl -i http://bookstore.bookstore:14001/books-bought" in text
    assert "status --socket /run/x/node.sock" in text


def test_hold_ends_when_something_of_the_demo_does(setting, monkeypatch):
    def sleep(seconds):
        setting.clock.now += seconds
        if seconds == 0.5:
            setting.town.ended = "mysql ended with status 1:\n"

    monkeypatch.setattr(setting.clock, "sleep", sleep)
    with pytest.raises(StartFailed, match="mysql ended"):
        setting.tour.run(1, hold=True)


def test_ready_is_what_the_admin_socket_says(setting, monkeypatch):
    asked = []

    def get(socket, page):
        asked.append((socket, page))
        if len(asked) == 1:
            raise ConnectionError("not yet")
        return {"ready": True}

    monkeypatch.setattr(mesh.client, "get", get)
    assert (is_ready(SOCKET), is_ready(SOCKET)) == (False, True)
    assert asked == [(str(SOCKET), "/ready")] * 2


def test_private_namespaces_are_entered_first(setting, monkeypatch):
    monkeypatch.setattr(setting.tour, "enter", "nsenter --target 5 --net --mount ")
    assert setting.tour.commands()[0].strip().startswith("nsenter --target 5 --net --mount bash")


@pytest.fixture
def two(setting, monkeypatch):
    """The same with two nodes. `noticed` seconds after the link went down or up, calls over it know."""
    town, clock = setting.town, setting.clock
    town.links, setting.noticed = [], 12.0

    def link(up):
        town.links.append((up, clock.now))
        town.override = {} if up else {"bookbuyer": 0.0, "bookstore-v1": 0.0}
        town.apply(town.applied and OUTAGE)

    def attempt(trial, namespace):
        setting.tried.append((trial, namespace))
        late = not town.links or clock.now - town.links[-1][1] >= setting.noticed
        return "" if late or namespace != "em-bookbuyer" else "expected otherwise"

    monkeypatch.setattr(
        town,
        "network",
        SimpleNamespace(**vars(FakeTown.network) | {"hosts": hosts(2), "sites": sites(2), "link": link}),
    )
    monkeypatch.setattr(tour.trials, "attempt", attempt)
    setting.tour.hosts = {host.name: host for host in hosts(2)}
    return setting


def test_two_nodes_lose_their_link_at_the_end_and_have_it_again(two):
    assert two.tour.run(9, hold=False) == 0
    assert [up for up, _ in two.town.links] == [False, True]
    assert "step 10: the link between the nodes goes down, and up again: ok" in two.out.getvalue()
    assert "all 10 held" in two.out.getvalue()
    assert {trial.wanted for trial, _ in two.tried} >= {"unreachable", "closed"}


def test_a_link_whose_loss_nobody_notices_fails_the_step(two):
    two.noticed = 1000.0
    assert two.tour.run(9, hold=False) == 1
    assert (
        "the link is down: curl bookbuyer -> http://bookstore.bookstore:14001/books-bought: expected otherwise"
        in two.out.getvalue()
    )
    assert "FAILED: step 10" in two.out.getvalue()


@pytest.mark.parametrize("hold", [True, False])
def test_a_tour_that_ends_early_leaves_the_link_alone(two, monkeypatch, hold):
    monkeypatch.setattr(two.tour, "_hold", lambda _: None)
    assert two.tour.run(9 if hold else 3, hold) == 0
    assert two.town.links == []
    assert sum("status --socket" in command for command in two.tour.commands()) == 2
