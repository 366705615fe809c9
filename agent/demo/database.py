"""The demo's mysql: MariaDB when it is installed, else a small stand-in that also speaks first, and says what it is."""

from __future__ import annotations

import json
import socketserver
import subprocess
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from agent.demo.application import Answer, Application
from agent.demo.servers import TcpServer
from agent.demo.surroundings import find

PORT = 3306
GREETING = b"bookstore-database stand-in 1\n"  # sent before the client has sent anything, as MySQL does
STAND_IN_NOTE = "mysql is a stand-in that speaks first, too: for the real one, apt-get install mariadb-server"


class MariaDbServer(Struct, frozen=True):
    """An installed MariaDB, run from an empty folder: no accounts, no InnoDB, ready in a quarter of a second."""

    server: str
    client: str

    def command(self, folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        options = (
            "--no-defaults",
            "--skip-grant-tables",
            "--skip-innodb",
            "--default-storage-engine=Aria",
            "--skip-log-bin",
            "--skip-name-resolve",
        )
        places = (f"--datadir={folder}", f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--tmpdir={folder}")
        # As root in its own namespace: it has one client, and under `unshare --map-root-user` there is no other user.
        return [self.server, *options, *places, "--user=root", "--bind-address=*", f"--port={PORT}"]

    def total(self, folder: Path) -> int:
        """Return what the database holds, read over its Unix socket; 0 while it holds nothing.

        Raise OSError when it does not respond.
        """
        options = ("--no-defaults", "--batch", "--skip-column-names", f"--socket={folder}/socket", "--user=root")
        command = [self.client, *options, "--execute=SELECT total FROM booksdemo.restocks WHERE id = 1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        if done.returncode and "doesn't exist" not in done.stderr and "Unknown database" not in done.stderr:
            raise OSError(f"mariadb: {done.stderr.strip()}")
        return int(done.stdout.strip() or 0)


def installed() -> MariaDbServer | None:
    """Return MariaDB's server and client, when both are on this machine."""
    server, client = find("mariadbd"), find("mariadb")
    return MariaDbServer(server, client) if server and client else None


class StandIn(Application):
    """Holds one number."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def raw(self) -> dict[str, int]:
        return {"total": self.total}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return Answer(200, json.dumps(self.raw()), "application/json") if path == "/raw" else Answer(404, "not found\n")


class StandInHandler(socketserver.StreamRequestHandler):
    """Greets, then responds `OK n` to each line `STORE n`, and `ERROR` to anything else."""

    def handle(self) -> None:
        assert isinstance(self.server, TcpServer) and isinstance(self.server.application, StandIn)
        self.wfile.write(GREETING)
        for line in self.rfile:
            word, _, number = line.strip().partition(b" ")
            if word == b"STORE" and number.isdigit():
                self.server.application.total = int(number)
                self.wfile.write(b"OK %d\n" % self.server.application.total)
            else:
                self.wfile.write(b"ERROR\n")
