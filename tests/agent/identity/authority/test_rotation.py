"""The authority's root, changed step by step and back; its files, torn and lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.identity import csr, lineage
from agent.identity.authority import ca, rotation
from agent.identity.authority.authority import Authority
from agent.identity.authority.journal import Fetched, Joined, Journal, Signed
from agent.identity.authority.local import ServerCredentials
from agent.identity.authority.rotation import NotNow
from agent.identity.authority.state import AuthorityState
from agent.identity.folder import Folder, FolderError
from agent.identity.protocol import Issued, SignRequest
from agent.system import state_files

START = 1_800_000_000.0
DAY = 86400.0
TD = "cluster.local"


class Mesh:
    """A daemon's authority, and a command beside it: each has its own view of one folder."""

    def __init__(self, path: Path, lifetime: float = DAY) -> None:
        self.now = START
        self.command = AuthorityState(path, self.clock)
        self.command.create(ca.make_root(TD, START, 1 << 120), TD)
        self.daemon = Authority(path, self.clock, lifetime, lambda node, spiffe: "", lambda node, identity, serial: "")
        self.first = self.daemon.bundle().issuer

    def clock(self) -> float:
        return self.now

    def step(self, name: str, force: bool = False) -> None:
        with self.command.held():
            if name == "add":
                rotation.add(self.command)
            else:
                {"issue": rotation.issue, "retire": rotation.retire, "undo": rotation.undo}[name](self.command, force)

    def renew(self, *nodes: str) -> list[Issued]:
        return [
            self.daemon.sign(node, SignRequest(f"spiffe://{TD}/node/{node}", csr.request(csr.new_key(), "x")))
            for node in nodes
        ]

    @property
    def standing(self) -> str:
        with self.command.held():
            return self.command.standing.step

    @property
    def blocking(self) -> list[str]:
        with self.command.held():
            return rotation.blocking(self.command)

    def roots(self) -> list[str]:
        return [csr.fingerprint(root) for root in self.daemon.bundle().roots]


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "authority")


def leads_to(issued: Issued) -> str:
    return csr.facts(issued.chain, "".join(issued.bundle.roots)).root


def test_a_rotation_from_end_to_end(mesh: Mesh) -> None:
    """At each step every node believes every certificate that is in use; the daemon sees each step without a restart."""
    mesh.renew("a", "b")
    door = ServerCredentials(mesh.daemon, mesh.clock)
    before = door()
    mesh.step("add")
    assert mesh.daemon.bundle().issuer == mesh.first
    assert len(mesh.roots()) == 2 and mesh.roots()[0] == mesh.first
    new = mesh.roots()[1]
    assert mesh.blocking == ["node a", "node b"]
    with pytest.raises(NotNow, match=r"not fetched the bundle with it:\n  node a\n  node b$") as caught:
        mesh.step("issue")
    assert caught.value.blocked
    mesh.daemon.bundle("a")
    assert leads_to(mesh.renew("b")[0]) == mesh.first
    assert door() is before

    mesh.step("issue")
    assert (mesh.daemon.bundle().issuer, mesh.roots()) == (new, [new, mesh.first])
    assert leads_to(mesh.renew("a")[0]) == new
    assert csr.facts(door().chain, mesh.daemon.trust().roots).root == new
    with pytest.raises(NotNow, match=rf"still lead to the old root:\n  spiffe://{TD}/node/b on node b$"):
        mesh.step("retire")
    mesh.renew("b")
    mesh.step("retire")
    assert mesh.roots() == [new] and mesh.standing == "idle"
    assert leads_to(mesh.renew("a")[0]) == new


def test_each_step_back(mesh: Mesh) -> None:
    with pytest.raises(NotNow, match="no step to take back"):
        mesh.step("undo")
    mesh.step("add")
    mesh.step("undo")
    assert (mesh.standing, mesh.roots()) == ("idle", [mesh.first])
    with pytest.raises(NotNow, match="no step to take back"):
        mesh.step("undo")
    mesh.step("add")
    mesh.step("issue")
    mesh.renew("a")
    mesh.step("undo")
    assert (mesh.standing, mesh.daemon.bundle().issuer, len(mesh.roots())) == ("added", mesh.first, 2)
    with pytest.raises(NotNow, match=r"lead to the new root.*\n  spiffe.*/node/a on node a"):
        mesh.step("undo")
    mesh.renew("a")
    mesh.step("undo")
    assert mesh.roots() == [mesh.first]

    mesh.step("add")
    mesh.step("issue", force=True)
    mesh.step("retire", force=True)
    new = mesh.first, *mesh.roots()
    assert [path.suffix for path in (mesh.command.folder.path / "retired").iterdir()].count(".key") == 1
    mesh.step("undo")
    assert (mesh.standing, sorted(mesh.roots())) == ("issuing", sorted(new))
    mesh.step("undo")
    assert mesh.daemon.bundle().issuer == mesh.first


def test_the_retired_key_goes_with_the_next_rotation(mesh: Mesh) -> None:
    for step in ("add", "issue", "retire", "add"):
        mesh.step(step)
    assert not list((mesh.command.folder.path / "retired").iterdir())
    assert len(list((mesh.command.folder.path / "issuers").iterdir())) == 4


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        ("", "issue"),
        ("", "retire"),
        ("add", "add"),
        ("add", "retire"),
        ("add issue", "add"),
        ("add issue", "issue"),
        ("add issue retire", "issue"),
    ],
)
def test_steps_have_an_order(before: str, wrong: str, mesh: Mesh) -> None:
    for step in before.split():
        mesh.step(step)
    with pytest.raises(NotNow, match="rotation") as caught:
        mesh.step(wrong, force=wrong != "add")
    assert caught.value.hint and not caught.value.blocked


def test_force_and_time_go_on_without_who_is_behind(mesh: Mesh) -> None:
    mesh.renew("a")
    mesh.step("add")
    with pytest.raises(NotNow):
        mesh.step("issue")
    mesh.step("issue", force=True)
    with pytest.raises(NotNow):
        mesh.step("retire")
    mesh.now += DAY  # what a holds has ended
    mesh.step("retire")


def test_a_site_is_asked_for_before_the_root_changes(mesh: Mesh) -> None:
    def site() -> None:
        with mesh.command.held():
            made, signer = rotation.site(mesh.command, "north", 365)
            assert csr.issued(csr.read(signer.root)[0], csr.read(made.certificates[0])[0])

    site()
    mesh.step("add")
    with pytest.raises(NotNow, match="ca intermediate --node north"):
        mesh.step("issue")
    site()  # under the new root, so that its nodes learn that
    mesh.step("issue")
    mesh.step("retire")


# files


def test_files_are_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o777):
        before = os.umask(umask)
        try:
            mesh = Mesh(tmp_path / f"authority-{umask:o}")
            with mesh.command.held():
                mesh.command.tokens.make("a", 10, START)
            for step in ("add", "issue", "retire"):
                mesh.step(step)
        finally:
            os.umask(before)
        found = [mesh.command.folder.path, *mesh.command.folder.path.rglob("*")]
        assert len(found) == 11
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_others_could_read_is_shut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "authority"
    path.mkdir()
    path.chmod(0o755)
    Mesh(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert "could be read by others" in caplog.text


def test_an_authority_is_not_made_over_another(mesh: Mesh) -> None:
    with pytest.raises(FolderError, match="holds an authority already"):
        mesh.command.create(ca.make_root(TD, START, 2), TD)
    assert mesh.roots() == [mesh.first]


def test_a_stop_in_the_middle_of_the_making_can_be_made_again(mesh: Mesh) -> None:
    (mesh.command.folder.path / "rotation.json").unlink()
    with pytest.raises(FolderError, match="there is no authority"):
        mesh.daemon.bundle()
    mesh.command.create(ca.make_root(TD, START, 2), TD)
    assert mesh.daemon.bundle().issuer != mesh.first


class StoppedError(Exception):
    """The power fails."""


@pytest.mark.parametrize("step", ["add", "issue", "retire", "undo"])
def test_the_power_may_fail_at_any_write_of_a_step(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was done until then: the daemon answers as before or as after, and the step can be taken again."""
    before = {"add": [], "issue": ["add"], "retire": ["add", "issue"], "undo": ["add", "issue", "retire"]}[step]
    real = Path.rename, Path.unlink
    for stop in range(20):
        mesh = Mesh(tmp_path / f"authority-{stop}")
        for earlier in before:
            mesh.step(earlier)
        known, standing = set(mesh.roots()), mesh.standing
        left = stop

        def failing(original: Callable[..., object]) -> Callable[..., object]:
            def change(*args: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise StoppedError
                return original(*args, **named)

            return change

        monkeypatch.setattr(Path, "rename", failing(real[0]))
        monkeypatch.setattr(Path, "unlink", failing(real[1]))
        try:
            mesh.step(step)
        except StoppedError:
            stopped = True
        else:
            stopped = False
        monkeypatch.setattr(Path, "rename", real[0])
        monkeypatch.setattr(Path, "unlink", real[1])
        assert mesh.daemon.bundle().issuer in mesh.roots()
        assert known & set(mesh.roots())
        mesh.renew("a")
        if mesh.standing == standing:
            assert set(mesh.roots()) == known
            mesh.step(step, force=True) if step != "add" else mesh.step(step)
        if not stopped:
            assert stop > 1
            return
    raise AssertionError("the step never ended")


def test_a_damaged_ledger_costs_no_root_and_stops_a_rotation(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.renew("a", "b")
    path = mesh.command.folder.path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"\xff\0 nonsense\n", *lines[1:]]))
    assert mesh.roots() == [mesh.first]
    assert "is damaged or gone" in caplog.text
    assert b"nonsense" in (mesh.command.folder.path / "ledger.damaged").read_bytes()
    mesh.daemon.bundle("a"), mesh.daemon.bundle("b")
    mesh.step("add")
    mesh.daemon.bundle("a"), mesh.daemon.bundle("b")
    with pytest.raises(NotNow, match="it was damaged, or another server"):
        mesh.step("issue")
    mesh.now += 13.9 * DAY
    with pytest.raises(NotNow) as refused:
        mesh.step("issue")
    assert refused.value.hint.startswith("wait until the last of it has ended, 2027-01-29 08:00 UTC")
    mesh.now += 0.2 * DAY
    mesh.step("issue")


def test_what_a_ledger_does_not_know_is_waited_for_as_long_as_certificates_live(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path / "authority", 30 * DAY)
    (mesh.command.folder.path / "ledger.jsonl").unlink()
    mesh.step("add")
    mesh.renew("a")
    with mesh.command.held():
        told = rotation.report(mesh.command)
    assert (told.step, told.waits_for, told.not_before) == ("added", (), START + 30 * DAY)
    mesh.now += 29 * DAY
    mesh.renew("a")
    with pytest.raises(NotNow, match="it was damaged"):
        mesh.step("issue")
    mesh.now += 1.1 * DAY
    mesh.step("issue")


def test_a_report_names_so_many_and_counts_the_rest(mesh: Mesh) -> None:
    mesh.renew("a", "b", "c")
    with mesh.command.held():
        assert rotation.report(mesh.command).waits_for == ()
    mesh.step("add")
    with mesh.command.held():
        told = rotation.report(mesh.command, 2)
    assert (told.waits_for, told.more) == (("node a", "node b"), 1)
    assert [root.role for root in told.roots] == ["signs", "new, does not sign yet"]
    assert told.roots[0].fingerprint == mesh.first


def test_no_character_of_the_ledger_that_rots_stops_the_authority(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.renew("a")
    with mesh.command.held():
        number = mesh.command.ledger.signed["a", f"spiffe://{TD}/node/a"][-1].serial
    path = mesh.command.folder.path / "ledger.jsonl"
    whole = path.read_bytes()
    for place in range(whole.index(number.encode()), whole.index(number.encode()) + len(number)):
        rotten = bytearray(whole)
        rotten[place] ^= 0x40  # what was a digit is none
        path.write_bytes(rotten)
        assert mesh.roots() == [mesh.first]
        assert "is damaged or gone" in caplog.text, place
        caplog.clear()


def test_a_ledger_that_is_rewritten_knows_what_a_node_has_left_behind(tmp_path: Path) -> None:
    """Also where the certificate that it has shown tells no order: an earlier version signed it."""
    folder, node = Folder(tmp_path), f"spiffe://{TD}/node/a"
    first, again = (f"{lineage.serial('0a' * 32, order, bytes(lineage.RANDOM)):x}" for order in (5, 9))
    journal = Journal(folder)
    journal.begin()
    journal.record(
        START,
        Joined("a", START),
        Signed(first, node, "a", START + DAY, "root", START),
        Signed("b7", node, "a", START + DAY, "root", START, first),
        Fetched("a", ("root",), START, "b7"),
    )
    for _ in range(400):  # each makes the one before needless
        journal.record(START, Fetched("a", ("root",), START, "b7"))
    assert b'"behind":5' in (folder.read("ledger.jsonl") or b"")
    for known in (journal, Journal(folder)):
        known.load(START)
        assert [known.may_renew("a", one, ["0a" * 32]) for one in (first, "b7", again)] == [False, True, True]
        assert not known.gap


def test_a_negative_serial_number_is_no_damage(tmp_path: Path) -> None:
    """Another authority of the mesh may have signed it; our ledger notes what the node showed."""
    journal = Journal(Folder(tmp_path))
    journal.begin()
    journal.record(START, Fetched("a", ("root",), START, "-1a"))
    journal.load(START)
    assert ("a" in journal.nodes, journal.gap) == (True, 0.0)


def test_a_ledger_that_is_gone_stops_a_rotation_too(mesh: Mesh) -> None:
    (mesh.command.folder.path / "ledger.jsonl").unlink()
    mesh.step("add")
    with pytest.raises(NotNow, match="it was damaged, or another server"):
        mesh.step("issue")
    mesh.step("issue", force=True)


def test_a_line_cut_short_is_no_damage(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.renew("a")
    path = mesh.command.folder.path / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 3])
    mesh.renew("b")
    with mesh.command.held():
        assert {pair[0] for pair in mesh.command.ledger.signed} == {"a", "b"}
        assert not mesh.command.ledger.gap
    assert not caplog.records


def test_unreadable_tokens_admit_nobody(mesh: Mesh) -> None:
    with mesh.command.held():
        secret = mesh.command.tokens.make("a", 100, START)
    (mesh.command.folder.path / "tokens.json").write_text("{")
    with mesh.command.held():
        assert not mesh.command.tokens.admits(secret, "a", START)
        mesh.command.tokens.make("a", 100, START)


def test_an_unreadable_rotation_file_says_what_to_do(mesh: Mesh) -> None:
    path = mesh.command.folder.path / "rotation.json"
    mesh.renew("a")
    whole = path.read_bytes()
    path.write_text("{")
    with pytest.raises(FolderError, match=r"rotation.json cannot be read") as caught:
        mesh.daemon.bundle()
    assert "backup" in caught.value.hint
    with pytest.raises(FolderError, match=r"rotation.json cannot be read"):  # and again: a failure is not kept as read
        mesh.daemon.bundle()
    with pytest.raises(FolderError, match="holds an authority already"):
        mesh.command.create(ca.make_root(TD, START, 2), TD)
    path.write_bytes(whole)
    assert mesh.roots() == [mesh.first]


@pytest.mark.parametrize("step", ["added", "issuing"])
def test_a_step_without_its_other_root_is_unreadable_and_no_crash(step: str, mesh: Mesh) -> None:
    path = mesh.command.folder.path / "rotation.json"
    path.write_bytes(state_files.unseal(path.read_bytes()).replace(b'"idle"', f'"{step}"'.encode()))
    for name in ("issue", "retire", "undo"):
        with pytest.raises(FolderError, match="does not name the other root"):
            mesh.step(name)


def test_a_full_disk_answers_nothing_that_is_not_kept(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FolderError, match="No space left"):
            mesh.renew("a")
    mesh.renew("a")


def test_the_lock_is_waited_for_and_not_for_ever(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.identity.folder._PATIENCE", 0.0)
    with mesh.command.held(), pytest.raises(FolderError, match="held by another process"):
        mesh.daemon.bundle()
    mesh.daemon.bundle()


# the journal


def test_the_ledger_stays_small_and_keeps_the_newest(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "authority")
    folder.make()
    ledger = Journal(folder)
    ledger.begin()
    for number in range(2000):
        ledger.record(START + number, Signed(f"{number:x}", "x", "a", START + number + 5, "r"))
    assert (tmp_path / "authority" / "ledger.jsonl").read_bytes().count(b"\n") < 600
    again = Journal(folder)
    again.load(START)
    assert [entry.serial for entry in again.newest(START + 2000)] == ["7cf"]
    assert again.newest(START + 3000) == []


def test_what_is_noted_after_a_line_that_was_torn_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full for a moment: the line that broke off is lost, and answered to nobody; the next one is a line of its own."""
    folder = Folder(tmp_path / "authority")
    folder.make()
    ledger = Journal(folder)
    ledger.begin()
    append = folder.append

    def breaks_off(name: str, data: bytes) -> None:
        append(name, data[: len(data) // 2])
        raise FolderError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "append", breaks_off)
        with pytest.raises(FolderError):
            ledger.record(START, Signed("01", "x", "a", START + 5, "r"))
    ledger.record(START, Signed("02", "x", "a", START + 5, "r"))
    again = Journal(folder)
    again.load(START)
    assert [entry.serial for entry in again.newest(START)] == ["02"]
    assert again.gap == START
