"""What every demo stands on: its network, its programs and the mesh daemons, brought up and taken down as one."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from agent.demo import documents
from agent.demo.mesh import Mesh
from agent.demo.network import Network
from agent.demo.plan import Site
from agent.demo.processes import Processes, StartFailed
from agent.demo.servers import ask
from agent.system import cgroup
from agent.system.program import command as self_command

FASTER = 5  # the original sleeps 1 s between rounds and up to 0.75 s for a sale; steps should take seconds
SETTINGS = (f"interval={1 / FASTER}", f"pause_least={0.150 / FASTER}", f"pause_most={0.749 / FASTER}", "retry=1")
START_SECONDS = 30.0  # a slow machine starts seven Python processes and a database


def remove_cgroups(sites: Iterable[Site]) -> None:
    """Remove the cgroups that the daemons made for themselves. Rules that name them are gone with their namespaces."""
    root = cgroup.mount()
    if root is not None:
        for site in sites:
            cgroup.leave(cgroup.folder(root, site.node))


class Stage(ABC):
    """A context manager: entering starts all but the daemons (see `start_mesh`), leaving removes everything."""

    inside = False  # whether the only daemon runs in its node's namespace

    def __init__(self, folder: Path, network: Network, say: Callable[[str], None] = lambda _: None) -> None:
        """`say`: called before each slow step."""
        self.say = say
        self.folder = folder
        self.network = network
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        try:
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.say(f"making {len(self.network.hosts) + len(self.network.sites)} network namespaces")
            self._stack.enter_context(self.network)
            self._stack.callback(remove_cgroups, self.network.sites)  # after the daemons have ended
            self.config = documents.Folder(self.folder / "config")
            self.processes = self._stack.enter_context(Processes(self.folder / "logs"))
            self.mesh = Mesh(self.folder, self.network, self.config, self.processes)
            self._start_applications()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def _start_applications(self) -> None:
        """Start the programs, and wait until they respond."""

    def start_mesh(self, ready: Callable[[Path], bool]) -> None:
        """Start `edgemesh run` on the folder, on each node, and wait until `ready(its socket)`.

        Raise StartFailed with the end of its log.
        """
        self.say("starting the mesh; the first step takes a few seconds")
        self.mesh.start(ready, self._wait, self.inside)

    def control(self, application: str) -> Path:
        return self.folder / f"{application}.sock"

    def _application(self, host: str, application: str, *settings: str) -> None:
        words = [application, f"control={self.control(host)}", *SETTINGS, *settings]
        self.processes.start(host, [*self_command(), "demo", "--app", *words], self.network.name(host))

    def _answers(self, application: str) -> bool:
        try:
            ask(self.control(application), "/raw")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _wait(self, name: str, up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not up():
            ended = self.processes.ended()
            if ended or time.monotonic() > deadline:
                raise StartFailed(
                    ended or f"{name} was not ready after {START_SECONDS:.0f} s:\n{self.processes.tail(name)}"
                )
            time.sleep(0.1)
