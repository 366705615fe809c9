"""The demo's daemons: one for each node; with two, the first is the authority and the second joins it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.admin import client
from agent.demo.documents import Folder
from agent.demo.network import RUN, Network
from agent.demo.plan import Site
from agent.demo.processes import Processes, StartFailed
from agent.demo.surroundings import environment, find
from agent.system.program import command as self_command

AUTHORITY_PORT = 15012
ENROL_SECONDS = 20.0


def is_ready(socket: Path) -> bool:
    """Return whether the daemon at this admin socket is ready."""
    try:
        client.get(str(socket), "/ready")
    except ConnectionError:
        return False
    return True


class Mesh:
    """`edgemesh run` on each node. `wait(name, up)` waits for a process until `up()`, or raises StartFailed."""

    def __init__(self, folder: Path, network: Network, config: Folder, processes: Processes) -> None:
        self.folder = folder
        self.network = network
        self.config = config
        self.processes = processes

    def home(self, site: Site) -> Path:
        """Return the folder where a node keeps its state and its socket."""
        return self.folder / site.node if site.number else self.folder

    def socket(self, site: Site) -> Path:
        return self.home(site) / "admin.sock"

    def start(
        self, ready: Callable[[Path], bool], wait: Callable[[str, Callable[[], bool]], None], inside: bool = False
    ) -> None:
        """Start the daemons, and wait for each until `ready(its socket)`.

        `inside`: the only one in its node's namespace too, where others reach what it listens to.
        """
        first, *others = self.network.sites
        run = ["run", "--config", str(self.config.path)]
        if not others:
            self.processes.start("edgemesh", [*(self._inside(first) if inside else ()), *self_command(), *run])
            wait("edgemesh", lambda: ready(self.socket(first)))
            return
        for site in self.network.sites:
            self.home(site).mkdir(mode=0o700, exist_ok=True)
        self._edgemesh(first, ["ca", "init", "--state", self._state(first)])
        self._start(first, [*run, "--authority"], ready, wait)
        for site in others:
            # Every user can read the words of a command line: so the token goes over standard input.
            token = self._edgemesh(first, ["ca", "token", "--node", site.node, "--state", self._state(first)])
            at = f"{first.link4}:{AUTHORITY_PORT}"
            self._edgemesh(site, ["join", "--authority", at, "--node", site.node, "--state", self._state(site)], token)
            self._start(site, run, ready, wait)

    def _start(
        self,
        site: Site,
        words: Sequence[str],
        ready: Callable[[Path], bool],
        wait: Callable[[str, Callable[[], bool]], None],
    ) -> None:
        name = f"edgemesh-{site.node}"
        self.processes.start(name, [*self._inside(site), *self_command(), *words, "--node", site.node])
        wait(name, lambda: ready(self.socket(site)))

    def _edgemesh(self, site: Site, words: Sequence[str], given: str = "") -> str:
        """Return what one command prints."""
        command = [*self._inside(site), *self_command(), *words]
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                text=True,
                check=False,
                env=environment(),
                timeout=ENROL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise StartFailed(f"edgemesh {' '.join(words)}: no answer after {ENROL_SECONDS:.0f} s") from None
        if done.returncode:
            raise StartFailed(f"edgemesh {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _inside(self, site: Site) -> list[str]:
        # Not `ip netns exec`: that mounts another /sys, without the cgroups that tell the daemon's sockets from those
        # of other processes.
        return [find("nsenter") or "nsenter", f"--net={RUN / self.network.name(site.name)}", "--"]

    def _state(self, site: Site) -> str:
        return str(self.home(site) / "state")
