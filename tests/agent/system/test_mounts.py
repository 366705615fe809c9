"""Mounts without a path; what they are good for is in tests/netns/test_in_a_pod.py."""

import os
from pathlib import Path

import pytest

from agent.system import mounts


def test_a_proc_of_our_own():
    if os.geteuid():
        pytest.skip("must mount, which needs root")
    try:
        root = mounts.detached("proc")
    except PermissionError:
        pytest.skip("must mount, which this user namespace may not")
    assert (root / "self/comm").read_text() == Path("/proc/self/comm").read_text()
    assert mounts.detached("proc") == root, "made once"
    assert str(root) not in Path("/proc/self/mounts").read_text()
    descriptor = int(root.name)
    assert not os.get_inheritable(descriptor)


def test_what_the_kernel_refuses_is_named():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="nonsense"):
        mounts.detached("nonsense")
    assert len(os.listdir("/proc/self/fd")) == before
