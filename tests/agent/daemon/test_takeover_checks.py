"""Is a daemon fit to take over? As good as the one that runs, or it says what is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.daemon import takeover_checks
from agent.kernel.condition import Condition
from tests.agent.conftest import publish


def held(name: str, until: float) -> Any:
    return SimpleNamespace(spiffe=name, not_after=until)


class FakeNode:
    """agent.daemon.node.Node as far as its health goes: buyer, thief and store-v1 of the manifests, and two certificates."""

    def __init__(self) -> None:
        self.published: Any = publish()
        self.conditions = {f"shop/{name}": Condition(True) for name in ("buyer", "thief", "store-v1")}
        self.certificates = [held("spiffe://b", 200.0), held("spiffe://a", 200.0), held("spiffe://old", 99.0)]
        self.keeper: Any = SimpleNamespace(
            clock=SimpleNamespace(now=lambda: 100.0), credentials=lambda: self.certificates
        )


@pytest.fixture
def node() -> Any:
    return FakeNode()


def test_certificates_that_are_good_now(node: Any) -> None:
    assert takeover_checks.identities(node) == ["spiffe://a", "spiffe://b"]
    node.keeper = None
    assert takeover_checks.identities(node) == []


async def test_as_good_as_the_one_before(node: Any) -> None:
    assert await takeover_checks.fault(node, node.conditions, ["shop/buyer", "shop/thief"], ["spiffe://a"]) == ""
    assert await takeover_checks.fault(node, node.conditions, [], []) == ""


async def test_what_is_missing_is_told(node: Any) -> None:
    node.conditions["shop/buyer"] = Condition(False, error="a port is taken")
    assert (
        await takeover_checks.fault(node, node.conditions, ["shop/thief", "shop/buyer"], [])
        == "shop/buyer is not captured: a port is taken"
    )
    assert await takeover_checks.fault(node, node.conditions, ["shop/thief"], []) == "", (
        "what the one before had not either is no fault"
    )
    del node.conditions["shop/buyer"]
    assert (
        await takeover_checks.fault(node, node.conditions, ["shop/buyer"], [])
        == "shop/buyer is not captured: it is not known"
    )
    assert (
        await takeover_checks.fault(node, node.conditions, ["shop/new"], [])
        == "shop/new is in no manifest that this version reads"
    )
    assert (
        await takeover_checks.fault(node, node.conditions, [], ["spiffe://old"])
        == "the certificate of spiffe://old is not there, or not good"
    )
    node.published = None
    assert "in no manifest" in await takeover_checks.fault(node, node.conditions, ["shop/thief"], [])


async def test_a_loop_that_does_not_come_round(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 1000, 2))
    monkeypatch.setattr(trio, "current_time", lambda: float(next(times)))
    assert await takeover_checks.fault(node, node.conditions, [], []) == "it is too slow here"
