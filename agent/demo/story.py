"""Tells one chapter: changes the policy, calls as its scenes say, compares, and prints a line for each."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from agent.admin import client
from agent.demo import surroundings
from agent.demo.chapters import NO_ANSWER, Ask, Chapter, Scene
from agent.demo.mesh import is_ready
from agent.demo.processes import StartFailed
from agent.demo.village import Village

IN_FORCE = 15.0  # seconds from a written file until it must be in force
SETTLE = 2.0  # seconds in which a server's count may follow
FAILED = 1


class Seen(Struct, frozen=True):
    """What calls came to."""

    statuses: Mapping[str, int]
    served: Mapping[str, int]
    shortest: float  # seconds
    unlike: str = ""  # the first response that lacks what it must say

    def __str__(self) -> str:
        parts = [f"{number} x {status}" for status, number in sorted(self.statuses.items())]
        parts += [f"{name} served {number}" for name, number in self.served.items() if number]
        return ", ".join(parts)


def judge(ask: Ask, seen: Seen) -> list[str]:
    """Return what is not as `ask` wants it."""
    wrong = []
    if dict(seen.statuses) != dict(ask.want):
        wrong.append("expected " + ", ".join(f"{number} x {status}" for status, number in ask.want.items()))
    for name, (least, most) in ask.served.items():
        if not least <= seen.served.get(name, 0) <= most:
            wrong.append(f"expected that {name} serves {least if least == most else f'{least} to {most}'}")
    if seen.shortest < ask.least:
        wrong.append(f"expected {ask.least:g} s at least, one took {seen.shortest:.2f}")
    if seen.unlike:
        wrong.append(f"expected {ask.says!r} in each response, one was {seen.unlike!r}")
    return wrong


class Story:
    """Drives a village through the scenes of a chapter."""

    def __init__(self, village: Village, private: bool, console: Console) -> None:
        self.village = village
        self.enter = surroundings.enter_command(private)
        self.console = console

    def run(self, chapter: Chapter, last: int, hold: bool) -> int:
        """Play scenes 1 to `last`, or with `hold` only scene `last`, to stay there. Return the exit code."""
        numbers = [last] if hold else range(1, last + 1)
        self._apply(chapter, chapter.scenes[numbers[0] - 1])
        self.village.start_mesh(is_ready)
        failures = 0
        self._say(chapter.about)
        for number in numbers:
            failures += self._play(chapter, number)
        if hold:
            self._hold()
        self.console.print(
            Text(f"FAILED: {failures}", style="bold red") if failures else Text("all held", style="bold green")
        )
        return FAILED if failures else 0

    def _play(self, chapter: Chapter, number: int) -> int:
        scene = chapter.scenes[number - 1]
        changed = self._apply(chapter, scene)
        self._say(f"scene {number} of {len(chapter.scenes)}: {scene.title}")
        for name in scene.files:
            self._say(f"  applies {self.village.config.path / name}")
        self._in_force(changed)
        failures = 0
        for ask in scene.asks:
            if ask.after:
                self._say(f"  {ask.after:g} s later")
                time.sleep(ask.after)
            seen = self._call(ask)
            wrong = judge(ask, seen)
            failures += bool(wrong)
            mark, style = ("FAILED", "red") if wrong else ("ok", "green")
            typed = str(ask).replace("{certificates}", str(self.village.certificates))
            self.console.print(Text.assemble(f"  {typed}: {seen} ", (mark, style)), soft_wrap=True)
            for line in wrong:
                self.console.print(Text(f"    {line}", style="red"), soft_wrap=True)
        return failures

    def _apply(self, chapter: Chapter, scene: Scene) -> float:
        return self.village.apply((*chapter.files, *scene.files))

    def _in_force(self, changed: float) -> None:
        """Wait until the daemon has a snapshot that was begun after the change. Raise StartFailed if it gets none."""
        (site,) = self.village.network.sites
        until = time.monotonic() + IN_FORCE
        while changed:
            with contextlib.suppress(ConnectionError, client.Answered):
                snapshot = client.get(str(self.village.mesh.socket(site)), "/status")["snapshot"]
                if snapshot and snapshot["built"] >= changed:
                    return
            if time.monotonic() > until:
                raise StartFailed(
                    f"the change was not in force after {IN_FORCE:g} s:\n{self.village.processes.tail('edgemesh')}"
                )
            time.sleep(0.05)

    def _call(self, ask: Ask) -> Seen:
        before = self.village.asked()
        statuses: Counter[str] = Counter()
        shortest, unlike = float("inf"), ""
        for _ in range(ask.times):
            began = time.monotonic()
            status, body = curl(ask, self.village.network.name(ask.who), self.village.certificates)
            shortest = min(shortest, time.monotonic() - began)
            statuses[status] += 1
            if ask.says not in body and not unlike:
                unlike = body[:200]
        until = time.monotonic() + SETTLE
        while True:
            after = self.village.asked()
            served = {name: after.get(name, 0) - before.get(name, 0) for name in after}
            if time.monotonic() > until or all(served.get(name, 0) >= least for name, (least, _) in ask.served.items()):
                return Seen(statuses, served, shortest, unlike)
            time.sleep(0.05)

    def _hold(self) -> None:
        """Keep everything running until Ctrl-C."""
        lines = ["holding; try these in another terminal, and Ctrl-C here to end:"]
        if self.enter:
            lines.append(f"  {self.enter}bash   # first: the demo has namespaces of its own")
        (site,) = self.village.network.sites
        edgemesh, socket = surroundings.edgemesh(), self.village.mesh.socket(site)
        lines += [
            f"  ip netns exec {self.village.network.name('client')} curl -i http://web.shop/",
            f"  {edgemesh} status --socket {socket}   # also routes",
            f"  {edgemesh} explain --socket {socket} client http://web.shop/",
            f"  ls {self.village.config.path}   # edit a file: it takes effect at once",
        ]
        self._say("\n".join(lines))
        with contextlib.suppress(KeyboardInterrupt):
            while not (ended := self.village.processes.ended()):
                time.sleep(0.5)
            raise StartFailed(ended)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def curl(ask: Ask, namespace: str, certificates: Path) -> tuple[str, str]:
    """Run curl once. Return the status, or NO_ANSWER, and the body."""
    words = [word.replace("{certificates}", str(certificates)) for word in ask.words]
    options = ("curl", "--silent", "--noproxy", "*", "--max-time", "15", "--write-out", "\n%{http_code}")
    command = ["ip", "netns", "exec", namespace, *options, *words, ask.url]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=surroundings.environment()
    )
    body, _, status = done.stdout.decode("latin-1").rpartition("\n")
    return (NO_ANSWER if status in ("", "000") else status), body
