"""What holds for every test: time is never what fails one. And the mint, for every test that needs certificates."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgemesh", deadline=None)
settings.load_profile("edgemesh")

# Seconds that a test may take where it builds, boots or emulates something; elsewhere `timeout` of pyproject.toml holds.
PATIENCE = {"smoke": 900, "systemd": 600, "build": 600, "kube": 900, "hostile": 300}


def pytest_ignore_collect(collection_path, config):
    """The kube ring needs a cluster and has a target of its own (make kube): it is collected only where it is named."""
    if collection_path == Path(__file__).parent / "kube":
        return None if any("tests/kube" in argument for argument in config.args) else True
    return None


def pytest_collection_modifyitems(items):
    tests = Path(__file__).parent
    for item in items:
        ring = item.path.relative_to(tests).parts[0]
        if ring in PATIENCE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE[ring]))


@pytest.fixture(autouse=True, scope="module")
def descriptors_are_given_back():
    """A file that leaves many open ends another one, somewhere else and in some orders only."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    left = sorted(os.listdir("/proc/self/fd"))
    assert len(left) < before + 16, f"{before} descriptors were open before this file, {len(left)} are after it"


@pytest.fixture(autouse=True)
def tests_stay_dumpable(monkeypatch):
    """What a command does to its process is not done to that of the tests, whose children need their own /proc."""
    from agent.system import private_memory

    monkeypatch.setattr(private_memory, "keep_memory_private", lambda: None)


@pytest.fixture(scope="session")
def mint():
    """mint.ca(), mint.credentials(spiffe, ...), mint.trust(ca, ...): tests/mint.py."""
    from tests.mint import Mint  # cryptography is not for tests that need no certificate

    return Mint()
