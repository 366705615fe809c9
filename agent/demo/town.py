"""The bookstore's town: what its programs are, what the policy of a step is, and what the counters say."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

from agent.demo import documents
from agent.demo.database import STAND_IN_NOTE, MariaDbServer, installed
from agent.demo.judge import Sample
from agent.demo.network import Network
from agent.demo.plan import PREFIX, hosts, sites
from agent.demo.servers import ask
from agent.demo.stage import Stage
from agent.demo.steps import Step

COUNTERS = {
    "bookbuyer": ("bookbuyer", "booksBought"),
    "bookthief": ("bookthief", "booksStolen"),
    "bookstore-v1": ("bookstore-v1", "booksSold"),
    "bookstore-v2": ("bookstore-v2", "booksSold"),
    "bookwarehouse": ("bookwarehouse", "restocked"),
    "mysql": ("bookwarehouse", "stored"),
}


class Town(Stage):
    """The bookstore and its daemons."""

    def __init__(
        self,
        folder: Path,
        private: bool,
        prefix: str = PREFIX,
        nodes: int = 1,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say`: called before each slow step."""
        super().__init__(folder, Network(hosts(nodes), prefix, not private, sites(nodes)), say)
        self.database: MariaDbServer | None = installed()

    @property
    def notes(self) -> list[str]:
        return [] if self.database else [STAND_IN_NOTE]

    def apply(self, step: Step) -> None:
        """Make the watched folder say what `step` says, and deploy or remove bookstore-v2 with it."""
        hosts = [
            host
            for host in self.network.hosts
            if host.name in documents.MEMBERS and (host.name != "bookstore-v2" or step.has_v2)
        ]
        files = {name: documents.fixed(source) for name, source in step.files.items()}
        files |= {f"workload-{host.name}.yaml": documents.workload(host, self.network) for host in hosts}
        for site in self.network.sites:
            files[f"{site.name}.yaml"] = documents.node_config(site, self.network, self.mesh.home(site))
        if step.has_v2 and not self.processes.has("bookstore-v2"):
            self._application("bookstore-v2", "bookstore", "identity=bookstore-v2")
        if not step.has_v2:
            self.processes.stop("bookstore-v2")
        self.config.hold_exactly(files)

    def sample(self) -> Sample:
        """Return every counter, read over Unix sockets."""
        counts: dict[str, int] = {}
        tries: dict[str, int] = {}
        last: dict[str, str] = {}
        for application in dict.fromkeys(application for application, _ in COUNTERS.values()):
            with contextlib.suppress(OSError, http.client.HTTPException):
                raw, calls = (ask(self.control(application), page) for page in ("/raw", "/calls"))
                for owner, (answering, counter) in COUNTERS.items():
                    if answering == application:
                        counts[owner] = int(raw[counter])
                tries[application], last[application] = int(calls["calls"]), str(calls["last"])
        return Sample(time.monotonic(), counts, tries, last)

    def stored(self) -> int:
        """Return what the database itself holds. Raise OSError when it does not respond."""
        if self.database:
            return self.database.total(self.folder / "mysql")
        return int(ask(self.control("mysql"), "/raw")["total"])

    def _start_applications(self) -> None:
        self.say(f"starting {'MariaDB' if self.database else 'a stand-in for MariaDB'} and the bookstore's programs")
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

    def _database_up(self) -> bool:
        try:
            self.stored()
        except (OSError, http.client.HTTPException):
            return False
        return True
