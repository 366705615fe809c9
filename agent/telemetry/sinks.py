"""SINKS: each kind of sink. Every record of the node goes to one of each, in this order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from agent.config.schema import NodeConfig
from agent.telemetry.access_log import AccessLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.recent_denials import RecentDenials
from agent.telemetry.sink import Figures, Sink
from nodeproxy.telemetry.record import Record

SINKS: tuple[type[Sink], ...] = (Metrics, AccessLog, RecentDenials)

S = TypeVar("S", bound=Sink)


class Sinks:
    """One sink of each row of SINKS."""

    def __init__(self, config: NodeConfig, figures: Figures, kinds: tuple[type[Sink], ...] = SINKS) -> None:
        self._made = tuple(kind.of(config, figures) for kind in kinds)
        self._takers = tuple(sink.__call__ for sink in self._made)  # bound once, as they are called for each request

    def __repr__(self) -> str:
        return f"<Sinks {', '.join(map(repr, self._made))}>"

    def __iter__(self) -> Iterator[Sink]:
        return iter(self._made)

    @property
    def every(self) -> bool:
        """Return whether one of them needs a record of each request. See Sink.every."""
        return any(sink.every for sink in self._made)

    def take(self, record: Record) -> None:
        """Give a record to each of them."""
        for taker in self._takers:
            taker(record)

    def follow(self, config: NodeConfig, workloads: Collection[str]) -> None:
        """Pass each of them the settings and workloads that are in force now."""
        for sink in self._made:
            sink.follow(config, workloads)

    def one(self, kind: type[S]) -> S:
        """Return the sink of that kind."""
        return next(sink for sink in self._made if isinstance(sink, kind))
