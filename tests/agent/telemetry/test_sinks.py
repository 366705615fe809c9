"""SINKS: every record goes to one of each kind, settings too, and what one of them needs the fast path hears."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from agent.config.schema import NodeConfig
from agent.telemetry.access_log import AccessLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.recent_denials import RecentDenials
from agent.telemetry.sink import Figures, Sink
from agent.telemetry.sinks import SINKS, Sinks
from nodeproxy.telemetry.record import Record


class Kept(Sink):
    """A sink that keeps what it is given: what somebody who adds one writes."""

    def __init__(self, config: NodeConfig, figures: Figures) -> None:
        self.node, self.figures = config.node, figures
        self.records: list[Record] = []
        self.followed: list[tuple[str, list[str]]] = []

    @classmethod
    def of(cls, config: NodeConfig, figures: Figures) -> Kept:
        return cls(config, figures)

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    def follow(self, config: NodeConfig, workloads: Collection[str]) -> None:
        self.followed.append((config.access_log, list(workloads)))


class Every(Kept):
    @property
    def every(self) -> bool:
        return True


def test_there_are_metrics_an_access_log_and_recent_denials(capfd: pytest.CaptureFixture[str]) -> None:
    sinks = Sinks(NodeConfig(node="edge-1", metrics_rows=7), Figures())
    assert [type(sink) for sink in sinks] == list(SINKS) == [Metrics, AccessLog, RecentDenials]
    assert sinks.one(RecentDenials).node == "edge-1"
    assert repr(sinks.one(Metrics)) == "<Metrics 0/7 rows>"
    with pytest.raises(StopIteration):
        sinks.one(Kept)


def test_each_sink_gets_each_record_in_the_order_of_the_table(daemon: Any) -> None:
    sinks = Sinks(NodeConfig(node="edge-1"), figures := Figures(), (Kept, Every))
    first, second = sinks
    assert isinstance(first, Kept)
    assert isinstance(second, Every)
    assert first.figures is figures
    record = daemon.record("shop/buyer", "shop/store-v1")
    sinks.take(record)
    sinks.follow(NodeConfig(access_log="all"), ["shop/buyer"])
    assert first.records == second.records == [record]
    assert first.followed == second.followed == [("all", ["shop/buyer"])]


def test_one_sink_that_needs_every_record_is_enough() -> None:
    config = NodeConfig()
    assert not Sinks(config, Figures(), (Kept, Kept)).every
    assert Sinks(config, Figures(), (Kept, Every)).every
    for mode, every in (("off", False), ("denied", False), ("failed", False), ("all", True)):
        sinks = Sinks(NodeConfig(access_log=mode), Figures())
        assert sinks.every is every
        sinks.follow(NodeConfig(access_log="all"), ())
        assert sinks.every


def test_metrics_fold_workloads_that_are_gone(daemon: Any) -> None:
    sinks = Sinks(NodeConfig(metrics_rows=1), Figures())
    sinks.take(daemon.record("shop/buyer", "shop/store-v1"))
    metrics = sinks.one(Metrics)
    sinks.follow(NodeConfig(), ["shop/buyer", "shop/store-v1"])
    assert len(metrics.rows) == 1
    (before,) = metrics.rows
    sinks.follow(NodeConfig(), [])
    assert before not in metrics.rows
