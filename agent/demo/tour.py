"""One tour through the steps: change the policy, watch the counters, try with curl, report the result."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping

from rich.console import Console

from agent.demo import judge, surroundings, trials
from agent.demo.judge import Finding, Sample
from agent.demo.mesh import is_ready
from agent.demo.plan import PREFIX
from agent.demo.processes import StartFailed
from agent.demo.steps import OUTAGE, STEPS, Step
from agent.demo.table import Display, Result, summary
from agent.demo.town import Town

SETTLE_SECONDS = 1.0  # from a written file to the first look at the counters
STEP_SECONDS = 45.0  # time after which a step's expectations have failed
OUTAGE_SECONDS = 45.0  # until calls notice that a link went down, or came up
FOLLOW_SECONDS = 10.0  # from a sale to its count in the database, with a dial or two in between
FAILED = 1


class Tour:
    """Drives a town through the steps and shows it."""

    def __init__(self, town: Town, private: bool, console: Console) -> None:
        self.town = town
        self.enter = surroundings.enter_command(private)
        self.display = Display(console, town.notes)
        self.hosts = {host.name: host for host in town.network.hosts}

    def run(self, last: int, hold: bool) -> int:
        """Run steps 1 to `last`, or with `hold` only step `last`, to stay there. Return the exit code."""
        numbers = [last] if hold else range(1, last + 1)
        results = []
        with self.display:
            self.town.apply(STEPS[numbers[0] - 1])
            self.town.start_mesh(is_ready)
            for number in numbers:
                result = self._step(number, STEPS[number - 1])
                results.append(result)
                self.display.finished(result)
            if len(self.town.network.sites) > 1 and last == len(STEPS) and not hold:
                results.append(self._outage(last + 1))
                self.display.finished(results[-1])
            if hold:
                self._hold(last)
        self.display.console.print(summary(results))
        for note in self.town.notes:
            self.display.say(note)
        return FAILED if any(result.failures for result in results) else 0

    def _step(self, number: int, step: Step) -> Result:
        began = time.monotonic()
        self.town.apply(step)
        base, found, failures = self._watch(number, step)
        tried = trials.trials(step, self.hosts, self.town.network.ipv6)
        if not failures:
            for trial in tried:
                self.display.show(number, step, self.town.sample(), found, f"curl: {trial}")
                if wrong := trials.attempt(trial, self.town.network.name(trial.who)):
                    failures.append(f"curl {trial}: {wrong}")
            failures += self._warehouse_follows(base)
        return Result(number, step, time.monotonic() - began, found, len(tried), tuple(failures))

    def _outage(self, number: int) -> Result:
        """Check that calls over the link fail with a response while it is down, and succeed again once it is up."""
        began = time.monotonic()
        self.town.apply(OUTAGE)
        _, found, failures = self._watch(number, OUTAGE)
        tries = 0
        for up in (False, True):
            if not failures:
                self.town.network.link(up)
                trial = trials.crossing(up)
                tried, wrong = self._until(number, trial, found)
                tries += tried
                failures += [f"the link is {'up' if up else 'down'}: curl {trial}: {wrong}"] if wrong else []
        if not failures:
            _, found, failures = self._watch(number, OUTAGE)
        return Result(number, OUTAGE, time.monotonic() - began, found, tries, tuple(failures))

    def _until(self, number: int, trial: trials.Trial, found: Mapping[str, Finding]) -> tuple[int, str]:
        """Try until the result is right or time is up. Return the number of tries, and the last fault."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        tries = 0
        while True:
            self.display.show(number, OUTAGE, self.town.sample(), found, f"curl: {trial}")
            tries += 1
            wrong = trials.attempt(trial, self.town.network.name(trial.who))
            if not wrong or time.monotonic() > deadline:
                return tries, wrong
            time.sleep(0.5)

    def _watch(self, number: int, step: Step) -> tuple[Sample, dict[str, Finding], list[str]]:
        """Watch until every counter does what it must, or time is up.

        The base moves on as long as the change has not taken effect.
        """
        deadline = time.monotonic() + STEP_SECONDS
        self._pause(number, step, SETTLE_SECONDS)
        base = self.town.sample()
        while True:
            time.sleep(0.2)
            now = self.town.sample()
            found = judge.findings(step, base, now)
            self.display.show(number, step, now, found, "watching the counters")
            states = {finding.state for finding in found.values()}
            if states == {"held"}:
                return base, found, []
            if ended := self.town.processes.ended():
                return base, found, [ended]
            if now.at > deadline:
                wrong = [owner for owner, finding in found.items() if finding.state != "held"]
                failures = [
                    f"{owner}: expected {step.expectations[owner]}, found {found[owner].text}" for owner in wrong
                ]
                return (
                    base,
                    found,
                    failures + [f"{owner}'s last call: {now.last[owner]}" for owner in wrong if now.last.get(owner)],
                )
            if "broken" in states:
                base = now

    def _warehouse_follows(self, base: Sample) -> list[str]:
        """Check that warehouse and database count what the stores sold since `base`."""
        then = self.town.sample()
        while True:
            now = self.town.sample()
            stored, confirmed = self.town.stored(), now.counts.get("mysql", 0)
            gap = judge.warehouse_gap(base, then, now)
            if not gap and stored >= confirmed:
                return []
            if now.at - then.at > FOLLOW_SECONDS:
                return [gap or f"mysql holds {stored} books after it confirmed {confirmed}"]
            time.sleep(0.2)

    def _pause(self, number: int, step: Step, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.display.show(number, step, self.town.sample(), {}, "the policy files have changed")
            time.sleep(0.1)

    def _hold(self, number: int) -> None:
        """Keep everything running until Ctrl-C."""
        step = STEPS[number - 1]
        self.display.say(
            "\n".join(["", "holding; try these in another terminal, and Ctrl-C here to end:", *self.commands(), ""])
        )
        base = self.town.sample()
        with contextlib.suppress(KeyboardInterrupt):
            while not (ended := self.town.processes.ended()):
                now = self.town.sample()
                self.display.show(number, step, now, judge.findings(step, base, now), "holding: Ctrl-C ends the demo")
                time.sleep(0.5)
            raise StartFailed(ended)

    def commands(self) -> list[str]:
        """Return commands for people to try meanwhile."""
        edgemesh = surroundings.edgemesh()
        sockets = [self.town.mesh.socket(site) for site in self.town.network.sites]
        disguise = "-A Go-http-client/1.1 -H 'client-app: bookbuyer'"
        netns = f"{'ip' if shutil.which('ip') else surroundings.find('ip')} netns exec {PREFIX}"
        commands = [
            f"{netns}bookthief curl -i {trials.STORE}",
            f"{netns}bookthief curl -i {disguise} {trials.STORE}",
            f"{netns}bookbuyer curl -i {disguise} {trials.STORE}",
            f"{netns}outsider curl -i http://{self.hosts['bookstore-v1'].address4}:14001/",
            *(f"{edgemesh} status --socket {socket}" for socket in sockets),
            f"{edgemesh} explain --socket {sockets[0]} bookthief/bookthief bookstore/bookstore --path /buy-a-book/new",
            f"ls {self.town.config.path}   # edit a file: it takes effect at once",
        ]
        if self.enter:
            commands.insert(0, f"{self.enter}bash   # first: the demo has namespaces of its own")
        return [f"  {command}" for command in commands]
