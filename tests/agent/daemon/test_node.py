"""A whole daemon in a temporary directory: what starts it, changes it, and stops it."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.admin import client
from agent.daemon import leader
from agent.kubernetes.access import Access
from agent.kubernetes.api import ApiServer
from agent.sources.kubernetes.cluster import Cluster
from agent.store.disk import State
from policy.model import Endpoint, Identity, Problem, Request, Where
from policy.resources import RawObject
from tests.agent.conftest import MANIFESTS
from tests.agent.daemon.conftest import BROKEN, busy, terminate

THIEF = "  sources: [{kind: ServiceAccount, name: buyer, namespace: shop}]"

LIVE_SETTINGS = """
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {name: default}
spec: {limits: {connections: 7, drainTimeout: 0.01}, accessLog: all, onStop: open}
"""


# what runs


async def test_nothing_is_admitted_before_policy_is_known(start: Any) -> None:
    node = start().make()
    snapshot = node.proxy.context.snapshot
    assert not snapshot.mesh.egress and not snapshot.mesh.permissive and not snapshot.workloads
    assert node.state == "starting"
    assert node.published is None


async def test_ready_over_the_admin_socket(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    assert await daemon.ask("/ready") == {"ready": True}
    assert (await daemon.ask("/status"))["node"] == "edge-1"
    ground.settled = False
    assert await daemon.ask("/ready") == {"ready": True}, "a policy edit does not make it a node that starts"


async def test_looked_at_is_not_captured(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    ground.fault = "Operation not permitted"
    with pytest.raises(client.Unreachable, match="degraded"):
        await daemon.ask("/ready")
    document = await daemon.ask("/status")
    assert (document["state"], document["enforcing"]) == ("degraded", False)
    (problem,) = [problem for problem in document["problems"] if "is not captured" in problem["message"]]
    assert (problem["severity"], problem["object"]) == ("error", "Workload shop/store-v1")
    assert problem["file"].endswith("shop.yaml") and problem["line"] > 0
    assert "Operation not permitted" in problem["message"]
    ground.fault = ""
    assert (await daemon.ask("/status"))["state"] == "enforcing"


async def test_a_node_that_has_not_looked_is_starting_not_degraded(start: Any) -> None:
    daemon = start()
    daemon.make().ground.fault = "no"  # type: ignore[attr-defined]
    assert daemon.node.state == "starting"
    assert daemon.node.state_in_words == "starting on edge-1"
    assert not daemon.node.problems


async def test_a_changed_file_takes_effect(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    node, file = daemon.node, daemon.file
    store, thief = node.proxy.context.snapshot.workload("shop/store-v1"), Identity("shop", "thief")
    assert node.proxy.context.snapshot.workload("shop/buyer") in ground.wanted
    buy = Request("GET", "/buy")
    assert not node.proxy.context.snapshot.authorize(thief, store, 8080, buy).allowed
    asked = []
    conn = SimpleNamespace(
        active=True, proved=None, pick=Endpoint("10.1.0.3", 8080), request=buy, verdict="", scope=trio.CancelScope()
    )
    conn.route = SimpleNamespace(still_allows=lambda *what: asked.append(what))
    node.proxy.context.conns[0] = conn  # type: ignore[assignment]
    file.write_text(MANIFESTS.replace(THIEF, THIEF.replace("buyer", "thief")) + "---\n" + LIVE_SETTINGS)
    await daemon.until(lambda: node.published.number == 2 and len(ground.events) == 2)
    assert node.proxy.context.snapshot.authorize(thief, store, 8080, buy).allowed
    assert asked == [(conn.pick, conn.request)] and conn.verdict == "cut", "what runs is judged anew"
    assert node.proxy.context.limits.connections == node.proxy.context.pool.limits.connections == 7
    assert node.access_log.mode == "all"
    assert node.config.limits.connections == 7


@pytest.mark.parametrize("asked", [False, True])
async def test_callers_that_name_another_service_are_refused_where_that_is_asked_for(start: Any, asked: bool) -> None:
    daemon = start(**({"refuse_other_hosts": True} if asked else {}))
    await daemon.start()
    assert daemon.node.proxy.context.refuse_other_hosts is asked


async def test_what_counts_of_workloads_that_are_gone_is_forgotten(start: Any) -> None:
    daemon = start()
    await daemon.start()
    retained: list[list[str]] = []
    daemon.node.metrics.retain = retained.append
    first, _, rest = MANIFESTS.partition("---\n")
    assert "name: buyer" in first
    daemon.file.write_text(rest)
    await daemon.until(lambda: retained)
    assert retained.pop() == ["shop/buyer", "shop/far", "shop/store-v1", "shop/thief"]
    assert await daemon.node.release("shop/buyer") == ("shop/buyer",)
    assert retained == [["shop/far", "shop/store-v1", "shop/thief"]]


async def test_a_problem_is_told_once(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    daemon = start()
    await daemon.start()
    (daemon.manifests / "broken.yaml").write_text(BROKEN)
    await daemon.until(lambda: daemon.node.published.number == 2)
    (daemon.manifests / "other.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n")
    await daemon.until(lambda: daemon.node.published.number == 3)
    await daemon.until(lambda: "snapshot 3 in" in caplog.text)
    told = [record for record in caplog.records if "sourcs" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert str(daemon.manifests / "broken.yaml") in told[0].getMessage()
    documents = await daemon.ask("/problems")
    assert "sourcs" in str(documents)
    (daemon.manifests / "broken.yaml").unlink()
    await daemon.until(lambda: "problems gone" in caplog.text)
    # The one that stays is that it has joined no mesh: one of its workloads is elsewhere.
    assert [problem.object for problem in daemon.node.problems if problem.severity == "error"] == ["identity"]


async def test_what_becomes_wrong_later_reaches_the_log_once_though_its_numbers_change(
    start: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that expires changes no manifest."""
    monkeypatch.setattr(leader, "_LOOK", 0.01)
    daemon = start()
    await daemon.start()
    caplog.clear()
    for hours in (1, 2, 3):
        message = f"the certificate of shop/buyer expired {hours} h ago"
        daemon.node._own_problems = [Problem("error", Where(), "identity", message, "look")]
        await trio.sleep(0.3)
    assert [(r.levelname, r.getMessage()) for r in caplog.records if "expired" in r.getMessage()] == [
        ("ERROR", "error: identity: the certificate of shop/buyer expired 1 h ago (look)")
    ]


# stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("on_stop", ["closed", "open"])
async def test_a_signal_drains_and_then_lets_go(
    start: Any, caplog: pytest.LogCaptureFixture, number: int, on_stop: str
) -> None:
    caplog.set_level(logging.INFO)
    daemon = start(on_stop=on_stop)
    ground = await daemon.start()
    busy(daemon)
    os.kill(os.getpid(), number)
    await daemon.until(lambda: daemon.node.proxy.context.draining)
    await daemon.ask("/status")  # people can still see what keeps it
    assert ground.events == ["want"]
    assert not daemon.done.is_set()
    daemon.node.proxy.context.conns.clear()
    await daemon.stopped()
    assert ground.events == ["want", on_stop]
    assert f"{signal.Signals(number).name}: draining for at most 10 s" in caplog.text
    assert ("rules removed" if on_stop == "open" else "rules stay") in caplog.text
    with pytest.raises(client.Unreachable, match="not running"):
        await daemon.ask("/ready")


async def test_a_second_signal_stops_at_once(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    busy(daemon)
    terminate()
    await daemon.until(lambda: daemon.node.proxy.context.draining)
    terminate()
    await daemon.stopped()
    assert ground.events == ["want"], "the rules stay as they are"


async def test_the_drain_deadline_and_on_stop_are_the_newest(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    daemon.file.write_text(MANIFESTS + "---\n" + LIVE_SETTINGS)
    await daemon.until(lambda: daemon.node.published.number == 2 and len(ground.events) == 2)
    busy(daemon)
    terminate()
    await daemon.stopped()  # limits.drainTimeout is 0.01 now
    assert ground.events[-1] == "open"


async def test_a_node_of_a_cluster_enforces_what_it_knew_while_the_api_server_is_away(
    start: Any, tmp_path: Path
) -> None:
    origin = "kubernetes:Workload/shop/buyer"
    data = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "buyer", "namespace": "shop"},
        "spec": {"netns": "em-buyer"},
    }
    State(tmp_path / "state").save([RawObject(data, Where(origin), {})], {})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        access = Access("127.0.0.1", nobody.getsockname()[1], "a test", plain=True)
        daemon = start()
        with trio.fail_after(2):
            await daemon.start(Cluster(ApiServer(access)))
        node = daemon.node
        assert [workload.key for workload in node.published.snapshot.workloads] == ["shop/buyer"]
        (cluster,) = (await daemon.ask("/status"))["clusters"]
        assert (cluster["connected"], cluster["synced"], cluster["error"]) == (False, False, "Connection refused")


async def test_a_node_of_a_cluster_that_knows_nothing_is_starting_until_it_does(start: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        daemon = start()
        daemon.make(Cluster(ApiServer(Access("127.0.0.1", nobody.getsockname()[1], "a test", plain=True))))
        daemon.nursery.start_soon(daemon._run)
        await daemon.until(lambda: daemon.node.clusters()[0]["connected"] is False)
        assert daemon.node.state == "starting"
        assert daemon.node.published is None


async def test_a_node_starts_with_what_it_last_knew(start: Any) -> None:
    daemon = start()
    await daemon.start()
    state = Path(daemon.settings.config.state_dir)
    await daemon.until(lambda: state.is_dir() and any(state.iterdir()))
    terminate()
    await daemon.stopped()
    daemon.file.write_text("kind: [")
    daemon.done = trio.Event()
    await daemon.start()
    assert daemon.node.proxy.context.snapshot.workload("shop/buyer") is not None
