"""The stand-in for mysql on the wire, and the command that runs the real one."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import stat

import pytest

from agent.demo.database import GREETING, MariaDbServer, StandIn, StandInHandler


def test_it_greets_before_the_client_has_said_a_word(serve):
    host, _, port = serve(StandIn(), StandInHandler).rpartition(":")
    with socket.create_connection((host, int(port)), 5) as connection, connection.makefile("rb") as lines:
        assert lines.readline() == GREETING
        connection.sendall(b"STORE 12\nSTORE twelve\nDROP TABLE\n")
        assert [lines.readline() for _ in range(3)] == [b"OK 12\n", b"ERROR\n", b"ERROR\n"]


def test_its_total_is_read_like_every_other_counter(serve):
    stand_in = StandIn()
    stand_in.total = 9
    with contextlib.closing(http.client.HTTPConnection(serve(stand_in), timeout=5)) as connection:
        connection.request("GET", "/raw")
        assert json.loads(connection.getresponse().read()) == {"total": 9}


def test_mariadb_runs_from_an_empty_folder_and_listens_to_the_network(tmp_path):
    command = MariaDbServer("/usr/sbin/mariadbd", "/usr/bin/mariadb").command(tmp_path / "mysql")
    assert command[0] == "/usr/sbin/mariadbd"
    assert {"--no-defaults", "--bind-address=*", "--port=3306", f"--datadir={tmp_path}/mysql"} <= set(command)
    assert (tmp_path / "mysql").is_dir()


@pytest.mark.parametrize(
    ("script", "total"),
    [("echo 17", 17), ("echo 'ERROR 1146: Table booksdemo.restocks doesn'\"'\"'t exist' >&2; exit 1", 0), ("true", 0)],
)
def test_the_total_is_asked_of_the_database_itself(tmp_path, script, total):
    client = tmp_path / "mariadb"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    assert MariaDbServer("mariadbd", str(client)).total(tmp_path) == total


def test_a_database_that_does_not_answer_is_an_oserror(tmp_path):
    client = tmp_path / "mariadb"
    client.write_text('#!/bin/sh\necho "ERROR 2002: Can\'t connect" >&2; exit 1\n')
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(OSError, match="Can't connect"):
        MariaDbServer("mariadbd", str(client)).total(tmp_path)
