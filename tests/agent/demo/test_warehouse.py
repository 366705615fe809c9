"""bookwarehouse, its two ways to store, and what happens when its database goes away."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.demo.application import Settings
from agent.demo.database import StandIn, StandInHandler, installed
from agent.demo.warehouse import Bookwarehouse, MariaDb, StandInClient


class Shelf:
    """A storage that can be taken away."""

    def __init__(self) -> None:
        self.total = 0
        self.reachable = True

    def store(self, total: int) -> int:
        if not self.reachable:
            raise ConnectionError("cut")
        self.total = total
        return total


def post(authority: str, path: str, body: bytes) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(authority, timeout=5)) as connection:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_restocking_adds_up(serve):
    warehouse = Bookwarehouse(Settings(), Shelf())
    authority = serve(warehouse)
    assert post(authority, "/restock-books", b"1") == (200, '{"restocked": 1}')
    assert post(authority, "/", b"5") == (200, '{"restocked": 6}')
    assert post(authority, "/", b"many")[0] == 400
    assert post(authority, "/elsewhere", b"1")[0] == 404
    assert warehouse.raw() == {"restocked": 6, "stored": 0}


def test_the_database_gets_the_newest_total_when_it_is_back(serve, eventually):
    shelf = Shelf()
    shelf.reachable = False
    warehouse = Bookwarehouse(Settings(retry=0.005), shelf)
    warehouse.start()
    authority = serve(warehouse)
    for _ in range(3):
        post(authority, "/", b"1")
    eventually(lambda: warehouse.tally.failed > 0)
    assert warehouse.stored == 0
    shelf.reachable = True
    eventually(lambda: warehouse.stored == 3)
    assert shelf.total == 3
    post(authority, "/", b"1")
    eventually(lambda: warehouse.stored == 4)


def test_the_stand_in_speaks_first_and_keeps_a_total(serve):
    stand_in = StandIn()
    host, _, port = serve(stand_in, StandInHandler).rpartition(":")
    client = StandInClient(host, int(port))
    assert client.store(5) == 5
    assert client.store(6) == 6
    client.close()
    assert stand_in.total == 6
    assert client.store(7) == 7, "it dials anew"
    client.close()


def test_a_database_that_nobody_runs_is_an_oserror():
    with pytest.raises(OSError, match="refused"):
        StandInClient("127.0.0.1", 9).store(1)


def fake_mariadb(folder: Path, body: str) -> str:
    program = folder / "mariadb"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_a_client_that_ends_is_started_anew(tmp_path):
    body = "line = sys.stdin.readline(); line = sys.stdin.readline()\nprint(line.split(', ')[1].split(')')[0], flush=True)\n"
    storage = MariaDb(fake_mariadb(tmp_path, body), "127.0.0.1", "3306")
    assert storage.store(8) == 8
    with pytest.raises(OSError):
        storage.store(9)
    assert storage.store(9) == 9
    storage.close()


def test_a_client_that_cannot_connect_is_an_oserror(tmp_path):
    storage = MariaDb(fake_mariadb(tmp_path, "sys.exit(1)\n"), "127.0.0.1", "3306")
    with pytest.raises(OSError):
        storage.store(1)


@pytest.mark.slow
@pytest.mark.skipif(installed() is None, reason="MariaDB is not installed (apt-get install mariadb-server)")
def test_the_real_mariadb_keeps_a_total(tmp_path, eventually):
    database = installed()
    assert database is not None
    folder = tmp_path / "mysql"
    command = [word if not word.startswith("--port=") else "--port=13399" for word in database.command(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    storage = MariaDb(shutil.which("mariadb") or database.client, "127.0.0.1", "13399")

    def up() -> bool:
        try:
            return database.total(folder) == 0
        except OSError:
            return False

    try:
        eventually(up)
        assert storage.store(41) == 41
        assert storage.store(42) == 42
        assert database.total(folder) == 42
    finally:
        storage.close()
        server.terminate()
        server.wait(10)
