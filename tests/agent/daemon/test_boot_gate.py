"""boot_gate.py: the program is there where it is wanted, and knows what the store knows."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from agent.daemon import boot_gate as module
from agent.daemon.boot_gate import BootGate
from agent.kubernetes.access import Access, Material
from agent.nri.boot_files import BootFiles, Known
from policy.enrolment import Marks

IN = {"openservicemesh.io/monitored-by": "osm"}


class World:
    def __init__(self, folder, access=None):
        self.wanted, self.namespaces = True, {"shop": Marks(IN, {"note": "x"})}
        self.store = SimpleNamespace(published=None, all_marks=lambda: self.namespaces)
        self.gate = SimpleNamespace(ranges={"10.42.0.0/24"})
        self.files = BootFiles(folder / "nri")
        self.boot_gate = BootGate(self.store, self.gate, lambda: self.wanted, access, self.files)


@pytest.fixture
def world(tmp_path, monkeypatch):
    async def here(run, *given):  # a thread's time is not the clock's
        run(*given)

    monkeypatch.setattr(module.trio.to_thread, "run_sync", here)
    return World(tmp_path)


async def test_it_is_written_when_the_policy_is_known_follows_it_and_goes(world, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.boot_gate.run)
        await trio.sleep(5)
        assert not world.files.program.exists(), "nothing is known yet: every pod would be mute"
        world.store.published = object()
        await trio.sleep(5)
        assert world.files.program.exists()
        assert world.files.load() == Known(1, ("10.42.0.0/24",), {"shop": (IN, {})})
        world.wanted, world.namespaces = None, {}
        await trio.sleep(5)
        assert world.files.load().namespaces != {}
        world.wanted = True
        await trio.sleep(5)
        assert world.files.load().namespaces == {}
        world.wanted = False
        await trio.sleep(5)
        assert not world.files.program.exists()
        assert world.boot_gate.problems == ()
        nursery.cancel_scope.cancel()


async def test_a_folder_that_is_not_there_is_a_problem_until_it_is(world, tmp_path, autojump_clock):
    world.store.published = object()
    (tmp_path / "nri").write_text("no folder")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.boot_gate.run)
        await trio.sleep(1)
        (problem,) = world.boot_gate.problems
        assert "the program for the boot cannot be kept" in problem.message
        (tmp_path / "nri").unlink()
        await trio.sleep(5)
        assert world.boot_gate.problems == ()
        nursery.cancel_scope.cancel()


async def test_what_a_daemon_wrote_that_did_not_take_over_is_put_right(world, autojump_clock):
    world.store.published = object()
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.boot_gate.run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert world.files.load() == Known(1, ("10.42.0.0/24",), {"shop": (IN, {})})
        assert "its own" not in world.files.program.read_text()
        world.files.save(Known())
        world.files.program.write_text("its own")


@pytest.mark.parametrize(
    ("access", "asked_with"),
    [
        (None, {}),
        (Access("10.43.0.1", 443, "a pod", token=Material(b"secret")), {"server": "10.43.0.1:443"}),
        (
            Access("h", 6443, "a file", key=Material(b"secret"), files=(Path("/etc/k3s.yaml"),), context="one"),
            {"kubeconfig": ("/etc/k3s.yaml",), "context": "one"},
        ),
    ],
)
def test_the_program_knows_whom_to_ask_and_no_secret(tmp_path, access, asked_with):
    world = World(tmp_path, access)
    world.store.published = object()
    world.boot_gate.settle(True, world.boot_gate._known())
    assert world.files.load() == Known(1, ("10.42.0.0/24",), {"shop": (IN, {})}, **asked_with)
    assert b"secret" not in (tmp_path / "nri" / "edgemesh.json").read_bytes()
