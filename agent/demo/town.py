"""The demo's town: network, applications, database and the mesh daemon, brought up and taken down as one."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.demo import apps, documents
from agent.demo.database import STAND_IN_NOTE, MariaDbServer, installed
from agent.demo.judge import Sample
from agent.demo.mesh import Mesh
from agent.demo.network import Network
from agent.demo.plan import PREFIX, Site, hosts, sites
from agent.demo.processes import Processes, StartFailed
from agent.demo.steps import Step
from agent.kernel import cgroup
from agent.program import command as self_command

METRICS = "127.0.0.1:15021"  # not 15020: the box may run a mesh of its own; two nodes have a loopback each
FASTER = 5  # the original sleeps a second between rounds and up to 0.75 s over a sale; steps should take seconds
SETTINGS = (f"interval={1 / FASTER}", f"pause_least={0.150 / FASTER}", f"pause_most={0.749 / FASTER}", "retry=1")
COUNTERS = {
    "bookbuyer": ("bookbuyer", "booksBought"),
    "bookthief": ("bookthief", "booksStolen"),
    "bookstore-v1": ("bookstore-v1", "booksSold"),
    "bookstore-v2": ("bookstore-v2", "booksSold"),
    "bookwarehouse": ("bookwarehouse", "restocked"),
    "mysql": ("bookwarehouse", "stored"),
}
START_SECONDS = 30.0  # a slow box starts seven Python processes and a database


def remove_cgroups(sites: Iterable[Site]) -> None:
    """The cgroups that the daemons made for themselves: rules that name them are gone with their namespaces."""
    root = cgroup.mount()
    if root is not None:
        for site in sites:
            cgroup.leave(cgroup.folder(root, site.node))


class Town:
    """Enter it to have everything but the daemon's readiness; leave it and nothing remains."""

    def __init__(self, folder: Path, private: bool, prefix: str = PREFIX, nodes: int = 1) -> None:
        self.folder = folder
        self.database: MariaDbServer | None = installed()
        self.network = Network(hosts(nodes), prefix, not private, sites(nodes))
        self._stack = contextlib.ExitStack()

    @property
    def notes(self) -> list[str]:
        return [] if self.database else [STAND_IN_NOTE]

    def __enter__(self) -> Town:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        try:
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
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

    def apply(self, step: Step) -> None:
        """Make the watched folder say what `step` says, and deploy or remove bookstore-v2 with it."""
        hosts = [host for host in self.network.hosts if host.name in documents.MEMBERS and (host.name != "bookstore-v2" or step.has_v2)]
        files = {name: documents.fixed(source) for name, source in step.files.items()}
        files |= {f"workload-{host.name}.yaml": documents.workload(host, self.network) for host in hosts}
        for site in self.network.sites:
            files[f"{site.name}.yaml"] = documents.node_config(site, self.network, self.mesh.home(site), METRICS)
        if step.has_v2 and not self.processes.has("bookstore-v2"):
            self._application("bookstore-v2", "bookstore", "identity=bookstore-v2")
        if not step.has_v2:
            self.processes.stop("bookstore-v2")
        self.config.hold_exactly(files)

    def start_mesh(self, ready: Callable[[Path], bool]) -> None:
        """Start `edgemesh run` on the folder, on each node, and wait until `ready(its socket)`. StartFailed with the end of its log."""
        self.mesh.start(ready, self._wait)

    def sample(self) -> Sample:
        """Every counter, read over Unix sockets."""
        counts: dict[str, int] = {}
        tries: dict[str, int] = {}
        last: dict[str, str] = {}
        for application in dict.fromkeys(application for application, _ in COUNTERS.values()):
            with contextlib.suppress(OSError, http.client.HTTPException):
                raw, calls = (apps.ask(self.control(application), page) for page in ("/raw", "/calls"))
                for owner, (answering, counter) in COUNTERS.items():
                    if answering == application:
                        counts[owner] = int(raw[counter])
                tries[application], last[application] = int(calls["calls"]), str(calls["last"])
        return Sample(time.monotonic(), counts, tries, last)

    def stored(self) -> int:
        """What the database itself says that it holds. OSError when it does not answer."""
        if self.database:
            return self.database.total(self.folder / "mysql")
        return int(apps.ask(self.control("mysql"), "/raw")["total"])

    def control(self, application: str) -> Path:
        return self.folder / f"{application}.sock"

    def _start_applications(self) -> None:
        if self.database:
            self.processes.start("mysql", self.database.command(self.folder / "mysql"), self.network.name("mysql"))
        else:
            self._application("mysql", "database", "port=3306")
        client = f"client={self.database.client}" if self.database else "client="
        self._application("bookwarehouse", "bookwarehouse", client)
        self._application("bookstore-v1", "bookstore", "identity=bookstore-v1")
        self._application("bookthief", "bookthief")
        self._application("bookbuyer", "bookbuyer")
        for name in ("bookwarehouse", "bookstore-v1", "bookthief", "bookbuyer"):
            self._wait(name, lambda name=name: self._answers(name))  # type: ignore[misc]
        self._wait("mysql", self._database_up)

    def _application(self, host: str, application: str, *settings: str) -> None:
        words = [application, f"control={self.control(host)}", *SETTINGS, *settings]
        self.processes.start(host, [*self_command(), "demo", "--app", *words], self.network.name(host))

    def _answers(self, application: str) -> bool:
        try:
            apps.ask(self.control(application), "/raw")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _database_up(self) -> bool:
        try:
            self.stored()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _wait(self, name: str, up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not up():
            ended = self.processes.ended()
            if ended or time.monotonic() > deadline:
                raise StartFailed(ended or f"{name} was not ready after {START_SECONDS:.0f} s:\n{self.processes.tail(name)}")
            time.sleep(0.1)
