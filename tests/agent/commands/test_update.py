"""edgemesh update: what is taken, what is refused and why, what is written down, and where it goes on when it was killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent import cli
from agent.admin import client
from agent.commands import NO, OK, USAGE
from agent.commands import update as module
from agent.commands.update import family
from agent.ota import fetch as fetch_module
from agent.ota.bundle import BundleError
from agent.ota.keys import Keys, TrustedKeys
from agent.ota.releases import PROGRAM, Releases
from tests.agent.ota import made

HERE = family()


class Daemon:
    """The one that runs: what it was asked, and what it does."""

    def __init__(self, releases: Releases) -> None:
        self.releases, self.asked = releases, []
        self.error: Exception | None = None

    def post(self, socket: str, path: str, query: Sequence[tuple[str, str]], timeout: float) -> Any:
        assert path == "/update"
        (name,) = [value for key, value in query if key == "release"]
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        self.releases.switch(name)
        return {"version": name}


class Box:
    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.folder, self.daemon = folder, daemon
        self.state = folder / "state"
        self.releases, self.trust = daemon.releases, TrustedKeys(self.state)

    def bundle(
        self,
        version: str,
        epoch: int,
        keys: Sequence[int] = (1,),
        program: bytes = b"",
        families: Sequence[str] = (HERE,),
        **fields: Any,
    ) -> Path:
        programs = {name: program or f"#!/bin/sh\n# {version} {name}\n".encode() for name in families}
        path = self.folder / f"{version}.bundle"
        path.write_bytes(made.bundle(made.manifest(version, epoch, programs, **fields), programs, keys))
        return path

    def update(self, *words: object) -> int:
        return cli.main(["update", *map(str, words), "--state", str(self.state), "--socket", str(self.folder / "s")])

    def pem(self, number: int) -> Path:
        path = self.folder / f"{number}.pub"
        path.write_bytes(made.key(number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box(tmp_path, Daemon(Releases(tmp_path / "state")))
    monkeypatch.setattr(client, "post", box.daemon.post)
    box.trust.write(Keys(0, (made.public(1),)))
    return box


Said = pytest.CaptureFixture[str]


def current(box: Box) -> str:
    return box.releases.current().partition("-")[0]


# what works


def test_a_bundle_is_taken_up(box: Box, capsys: Said) -> None:
    assert box.update(box.bundle("1.0", 1)) == OK
    assert capsys.readouterr().out == "edgemesh 1.0 runs\n"
    assert box.daemon.asked == [box.releases.current()]
    assert box.trust.epoch() == 1
    assert [(line["what"], line["version"], line["outcome"]) for line in box.releases.history()] == [
        ("update", "1.0", "took over")
    ]


def test_the_file_of_this_cpu_is_taken(box: Box) -> None:
    other = next(name for name in module._FAMILIES.values() if name != HERE)
    assert box.update(box.bundle("1.0", 1, families=(other, HERE))) == OK
    assert box.releases.program.read_bytes() == f"#!/bin/sh\n# 1.0 {HERE}\n".encode()


def test_without_a_daemon_it_is_installed_and_that_is_said(box: Box, capsys: Said) -> None:
    box.daemon.error = client.NotRunning("nobody")
    assert box.update(box.bundle("1.0", 1)) == OK
    assert "it has not proved well yet" in capsys.readouterr().out
    assert current(box) == "1.0"


def test_one_that_was_killed_is_waited_for(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is left; the manager starts it anew. No release is installed unproved because of that."""
    (box.folder / "s").touch()
    box.daemon.error = client.NotRunning("killed")
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert box.releases.current() == ""
        if len(slept) == 3:
            box.daemon.error = None

    monkeypatch.setattr(
        module, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    )  # other threads sleep as they did
    assert box.update(box.bundle("1.0", 1)) == OK
    assert len(box.daemon.asked) == 4
    assert box.releases.history()[-1]["outcome"] == "took over"


def test_one_that_does_not_come_back_is_not_waited_for_without_end(
    box: Box, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    (box.folder / "s").touch()
    box.daemon.error = client.NotRunning("killed")
    now = iter(range(0, 1000, 5))
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(now))))
    assert box.update(box.bundle("1.0", 1)) == OK
    assert "it has not proved well yet" in capsys.readouterr().out
    assert len(box.daemon.asked) < 10


def test_the_same_again_changes_nothing(box: Box, capsys: Said) -> None:
    bundle = box.bundle("1.0", 1)
    assert box.update(bundle) == box.update(bundle) == OK
    assert "runs here already" in capsys.readouterr().out
    assert len(box.daemon.asked) == 1


def test_only_the_last_two_stay(box: Box) -> None:
    for epoch in range(1, 5):
        assert box.update(box.bundle(f"{epoch}.0", epoch)) == OK
    assert len([path for path in box.releases.folder.iterdir() if path.is_dir() and not path.is_symlink()]) == 2


# what is refused


def refused(box: Box, capsys: Said, what: str, *words: object) -> None:
    before = box.releases.current(), box.releases.previous(), list(box.daemon.asked)
    capsys.readouterr()
    assert box.update(*words) == NO
    assert what in capsys.readouterr().err
    assert (box.releases.current(), box.releases.previous(), box.daemon.asked) == before


def test_what_is_not_signed_as_it_should_be_is_refused(box: Box, capsys: Said) -> None:
    good = box.bundle("1.0", 1)
    data = good.read_bytes()
    refused(box, capsys, "none of the keys", box.bundle("1.1", 2, keys=(2,)))
    for change, what in (
        (data[:-1], "it is cut off"),
        (data + b"x", "something was added"),
        (data[:-2] + b"x\n", "not the one that was signed"),
        (data[:130] + b"x" + data[131:], "signature is wrong"),
        (b"", "no edgemesh bundle"),
        (b"#!/bin/sh\n" * 90, "no edgemesh bundle"),
    ):
        good.write_bytes(change)
        refused(box, capsys, what, good)
    assert box.trust.epoch() == 0


def test_another_cpus_bundle_is_refused(box: Box, capsys: Said) -> None:
    other = next(name for name in module._FAMILIES.values() if name != HERE)
    refused(box, capsys, f"nothing for this CPU ({HERE})", box.bundle("1.0", 1, families=(other,)))


def test_a_box_that_trusts_no_key_takes_nothing(box: Box, capsys: Said) -> None:
    box.trust.write(Keys())
    refused(box, capsys, "trusts no key yet", box.bundle("1.0", 1))


def test_an_older_one_is_refused_unless_it_is_named(box: Box, capsys: Said) -> None:
    box.update(box.bundle("2.0", 2))
    old = box.bundle("1.0", 1)
    refused(box, capsys, "say --downgrade 1.0", old)
    refused(box, capsys, "say --downgrade 1.0", old, "--downgrade", "0.9")
    assert box.update(old, "--downgrade", "1.0") == OK
    assert current(box) == "1.0"
    assert box.trust.epoch() == 2, "other old ones are still refused"
    refused(box, capsys, "is older", box.bundle("1.1", 1))


def test_what_older_ones_cannot_read_is_not_gone_back_to(box: Box, capsys: Said) -> None:
    box.update(box.bundle("1.0", 1))
    box.update(box.bundle("2.0", 2, rollback=2))
    refused(box, capsys, "cannot read", box.bundle("1.0", 1), "--downgrade", "1.0")
    refused(box, capsys, "cannot read", "rollback")


def test_a_release_between_comes_first(box: Box, capsys: Said) -> None:
    box.update(box.bundle("1.0", 1))
    refused(box, capsys, "take a release between first", box.bundle("3.0", 3, minimum=2))
    assert box.update(box.bundle("2.0", 2)) == box.update(box.bundle("3.0", 3, minimum=2)) == OK


def test_a_daemon_that_says_no(box: Box, capsys: Said) -> None:
    box.update(box.bundle("1.0", 1))
    box.daemon.error = client.Answered(409, "release 2.0 did not take over: it ended", "edgemesh 1.0 goes on as before")
    assert box.update(box.bundle("2.0", 2)) == NO
    said = capsys.readouterr().err
    assert "did not take over" in said
    assert "edgemesh 1.0 goes on as before" in said
    assert (current(box), box.trust.epoch()) == ("1.0", 1), "what never ran does not count"
    assert box.releases.history()[-1]["outcome"].startswith("failed: ")


def test_one_at_a_time(box: Box, capsys: Said) -> None:
    bundle = box.bundle("1.0", 1)
    with box.releases.alone():
        refused(box, capsys, "another update is under way", bundle)
        refused(box, capsys, "another update is under way", "rollback")
        assert box.update("status") == box.update("history") == OK, "looking is always possible"


def test_words_that_make_no_sense(box: Box, capsys: Said) -> None:
    assert box.update("a", "b") == USAGE
    for words in (("status", "x"), ("history", "x"), ("rollback", "x")):
        refused(box, capsys, "there is nothing to add", *words)
    refused(box, capsys, "no such file", box.folder / "gone")


# keys


def test_keys_rotate_by_a_signed_list(box: Box, capsys: Said) -> None:
    assert box.update(_listing(box, "2.0", 2, 1, (2,), signed=1)) == OK
    refused(box, capsys, "none of the keys", box.bundle("3.0", 3, keys=(1,)))
    assert box.update(box.bundle("3.0", 3, keys=(2,))) == OK
    assert box.update(_listing(box, "4.0", 4, 1, (1,), signed=2)) == OK
    assert box.trust.keys().keys == (made.public(2),), "a list of the same number is not a newer one"


def _listing(box: Box, version: str, epoch: int, serial: int, numbers: Sequence[int], signed: int) -> Path:
    """A bundle that brings a list of keys."""
    programs = {HERE: f"#!/bin/sh\n# {version}\n".encode()}
    keys = tuple(made.public(number).hex() for number in numbers)
    path = box.folder / f"{version}.bundle"
    path.write_bytes(
        made.bundle(made.manifest(version, epoch, programs, key_serial=serial, keys=keys), programs, (signed,))
    )
    return path


def test_who_is_root_here_decides_whom_to_trust(box: Box, capsys: Said) -> None:
    assert box.update(_listing(box, "2.0", 2, 5, (2,), signed=1)) == OK
    assert box.update("trust", box.pem(3), box.pem(4)) == OK
    assert made.public(3).hex()[:16] in capsys.readouterr().out
    assert box.trust.keys() == Keys(5, (made.public(3), made.public(4)))
    assert box.update(box.bundle("3.0", 3, keys=(4,))) == OK
    assert box.trust.keys().keys == (made.public(3), made.public(4)), "no list that came before overrules that"


def test_trust_mends_keys_that_cannot_be_read(box: Box, capsys: Said) -> None:
    (box.trust.folder / "keys").write_text("nonsense")
    refused(box, capsys, "edgemesh update trust writes it anew", box.bundle("1.0", 1))
    assert box.update("trust", box.pem(1)) == OK
    assert box.update(box.bundle("1.0", 1)) == OK


def test_what_is_no_key(box: Box, capsys: Said) -> None:
    (box.folder / "text").write_text("no key")
    rsa = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (box.folder / "rsa").write_bytes(rsa)
    refused(box, capsys, "no public key in PEM", "trust", box.folder / "text")
    refused(box, capsys, "no Ed25519 key", "trust", box.folder / "rsa")
    refused(box, capsys, "which key?", "trust")
    refused(box, capsys, "No such file", "trust", box.folder / "gone")
    assert box.trust.keys() == Keys(0, (made.public(1),))


# going back, and what was


def test_rollback_goes_back_and_forth(box: Box, capsys: Said) -> None:
    refused(box, capsys, "there is no release before", "rollback")
    box.update(box.bundle("1.0", 1))
    refused(box, capsys, "there is no release before", "rollback")
    box.update(box.bundle("2.0", 2))
    for version in ("1.0", "2.0", "1.0"):
        assert box.update("rollback") == OK
        assert current(box) == version
    assert box.trust.epoch() == 2


def test_status_and_history(box: Box, capsys: Said) -> None:
    assert box.update("status") == OK
    assert "installed  not by a bundle" in capsys.readouterr().out
    box.update(box.bundle("1.0", 1))
    box.update(box.bundle("2.0", 2))
    capsys.readouterr()
    assert box.update("status") == OK
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["installed", "before", "epoch", "keys"]
    assert said[0].split()[1].startswith("2.0-")
    assert said[1].split()[1].startswith("1.0-")
    assert box.update("history") == OK
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()] == ["1.0", "2.0"]


def test_for_programs(box: Box, capsys: Said) -> None:
    def asked(*words: object) -> Any:
        assert box.update(*words, "-o", "json") == OK
        return json.loads(capsys.readouterr().out)

    assert asked("status")["installed"] is None
    assert asked(box.bundle("1.0", 1)) == {"version": "1.0", "epoch": 1, "outcome": "runs"}
    assert asked(box.bundle("1.0", 1)) == {"version": "1.0", "epoch": 1, "outcome": "current"}
    asked(box.bundle("2.0", 2))
    assert asked("rollback") == {"version": "1.0", "epoch": 1, "outcome": "runs"}
    assert [line["version"] for line in asked("history")] == ["1.0", "2.0", "1.0"]
    assert asked("status")["epoch"] == 2
    assert len(asked("trust", box.pem(2))["keys"]) == 1


# killed in the middle, and damaged


def test_what_was_not_written_down_is_by_the_next(box: Box, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the daemon had taken over: neither epoch nor keys were written."""
    with monkeypatch.context() as patch:
        patch.setattr(TrustedKeys, "came_to", lambda self, manifest: sys.exit("killed"))
        with pytest.raises(SystemExit):
            box.update(_listing(box, "2.0", 2, 1, (2,), signed=1))
    assert current(box) == "2.0"
    refused(box, capsys, "none of the keys", box.bundle("1.0", 1, keys=(1,)))
    refused(box, capsys, "is older", box.bundle("1.0", 1, keys=(2,)))
    assert (box.trust.epoch(), box.trust.keys()) == (2, Keys(1, (made.public(2),)))


def test_a_damaged_manifest_of_what_runs_does_not_lock_the_box_out(box: Box) -> None:
    box.update(box.bundle("2.0", 2))
    (box.releases.folder / "current" / "manifest.json").write_text("{")
    assert box.update(box.bundle("3.0", 3, minimum=2)) == OK


def test_the_installed_release_is_mended_by_its_bundle(box: Box, capsys: Said) -> None:
    bundle = box.bundle("1.0", 1)
    box.update(bundle)
    program = box.releases.program.read_bytes()
    (box.releases.folder / "current" / PROGRAM).write_bytes(b"damaged")
    assert box.update(bundle) == OK
    assert box.releases.program.read_bytes() == program


# over the network


@pytest.fixture
def fetched(box: Box, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Bundles come from a URL: what is fetched is kept in the state directory."""
    url = "https://releases.example/edgemesh.bundle"

    def offer(bundle: Path) -> str:
        def fetch(source: str, folder: Path, rate: int, told: object) -> fetch_module.Fetched:
            assert (source, folder) == (url, box.trust.folder)
            path = folder / "fetched-0"
            path.write_bytes(bundle.read_bytes())
            return fetch_module.Fetched(path, 7, 5)

        monkeypatch.setattr(module, "fetch", fetch)
        return url

    return offer


def kept(box: Box) -> bool:
    return (box.trust.folder / "fetched-0").exists()


def test_what_came_over_the_network_is_counted_and_not_kept(
    box: Box, capsys: Said, fetched: Callable[[Path], str]
) -> None:
    assert box.update(fetched(box.bundle("1.0", 1))) == OK
    assert "7 bytes received, after 5 before" in capsys.readouterr().out
    assert not kept(box)


def test_what_is_altered_is_not_kept_and_what_is_refused_is(
    box: Box, capsys: Said, fetched: Callable[[Path], str]
) -> None:
    assert box.update(box.bundle("3.0", 3)) == OK
    bundle = box.bundle("4.0", 4)
    data = bundle.read_bytes()
    for wrong in (data[:-2] + b"x\n", data[:-1], b"nonsense", data[:130] + b"x" + data[131:]):
        bundle.write_bytes(wrong)
        assert box.update(fetched(bundle)) == NO
        assert not kept(box), "or the next try would find it again"
    old = fetched(box.bundle("1.0", 1))
    assert box.update(old) == NO
    assert kept(box), "it may be asked for by its name"
    assert box.update(old, "--downgrade", "1.0") == OK
    assert not kept(box)


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86_64"), ("aarch64", "aarch64"), ("riscv64", "riscv64"), ("loongarch64", "loong64")],
)
def test_families(machine: str, name: str) -> None:
    assert family(machine) == name


def test_a_cpu_that_it_is_not_built_for() -> None:
    with pytest.raises(BundleError, match="not built for this CPU"):
        family("m68k")
