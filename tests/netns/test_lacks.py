"""The kernel has none just now, in real namespaces: no call that fails once opens what was closed, or keeps it from being captured after."""

import errno
import itertools
import os

import pytest

from agent.config.schema import NodeConfig
from agent.kernel import capture as ground_module
from agent.kernel import netns
from agent.kernel.capture import CaptureManager
from policy.model import Workload
from tests.agent.lacks import Lacks
from tests.netns.conftest import sh

NUMBERS = (errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOSPC)
NAMES = ("emlk-a", "emlk-b", "emlk-pod", "emlk-left")
_CLOSING = ("__enter__", "__exit__")


@pytest.fixture
def namespaces():
    for name in NAMES:
        sh("ip", "netns", "del", name, check=False)
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
    sh("ip", "-n", "emlk-pod", "addr", "add", "10.214.0.9/32", "dev", "lo")
    yield
    for name in NAMES:
        sh("ip", "netns", "del", name, check=False)


def has_rules(name):
    return "inet edgemesh" in sh("ip", "netns", "exec", name, "nft", "list", "tables").stdout


def lived(lacks, monkeypatch):
    """A workload that was captured, one that comes, one that is found by its address, and a place that nothing names any more."""
    monkeypatch.setattr(ground_module, "_RETRY", 0.0)
    held = {}
    ground = CaptureManager(NodeConfig(node="emlk"), own_cgroup=False)

    def detach(key):
        if key in held:
            held.pop(key).close()

    def attach(workload, doors):
        detach(workload.key)
        held[workload.key] = doors

    ground.serve(attach, detach)
    workload = lambda name: Workload("n", name, name, netns=f"emlk-{name}")  # noqa: E731
    pod = Workload("n", "pod", "pod", ("10.214.0.9",), node="emlk")
    try:
        ground.want([workload("a"), workload("left")])
        ground.settle()
        assert has_rules("emlk-a") and has_rules("emlk-left")
        ground.want([workload("a"), workload("b"), pod])
        with lacks():
            ground.settle()
            ground.conditions()
            ground.report()
        assert has_rules("emlk-a"), "what was captured is not let out"
        assert has_rules("emlk-left"), "what is named no more is not let out either"
        for _ in range(3):
            ground.settle()
        assert {key: condition.captured for key, condition in ground.conditions().items()} == {
            "n/a": True,
            "n/b": True,
            "n/pod": True,
        }
        assert ground.closed() == {"netns /run/netns/emlk-left": "n/left"}
        assert all(map(has_rules, NAMES))
    finally:
        for key in list(held):
            detach(key)
        ground.release(open_node=True)


def test_every_call_fails_once(namespaces, monkeypatch):
    recorded = Lacks()
    netns.home()
    lived(recorded, monkeypatch)
    places = [place for place in sorted(recorded.seen) if place.function not in _CLOSING]
    assert len(places) > 20
    numbers = itertools.cycle(NUMBERS)
    before = len(os.listdir("/proc/self/fd"))
    for place in places:
        number = next(numbers)
        lacks = Lacks(place, number)
        try:
            lived(lacks, monkeypatch)
        except BaseException as error:
            raise AssertionError(f"{place} with {errno.errorcode[number]}") from error
    assert len(os.listdir("/proc/self/fd")) <= before, "and no descriptor is lost by it"
