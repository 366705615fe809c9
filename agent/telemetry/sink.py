"""The interface of a sink, which takes records of requests and connections.

Subclass Sink in a file of its own, and give it a row in sinks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from agent.config.schema import NodeConfig
from nodeproxy.telemetry.record import Record

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class Figures(NamedTuple):
    """What a sink may ask the node for, beside the records it is given."""

    gauges: Callable[[], Iterable[Metric]] = tuple  # metrics that are computed at each scrape
    collect: Callable[[], None] = lambda: None  # have the fast path report what it has counted, by Metrics.counted


class Sink:
    """Takes each record when it is closed.

    The proxy calls it in its loop for each request and connection: it must not wait, and every call pays for its work.
    """

    name: ClassVar[str] = ""  # name in the log of what `run` does; "": `run` has nothing to do

    @property
    def every(self) -> bool:
        """Return whether it needs a record of each request: else the fast path only counts successful ones."""
        return False

    @classmethod
    def of(cls, config: NodeConfig, figures: Figures) -> Self:
        """Make the sink of a node."""
        raise NotImplementedError

    def __call__(self, record: Record) -> None:
        raise NotImplementedError

    def follow(self, config: NodeConfig, workloads: Collection[str]) -> None:
        """Note new settings and workloads, given by their keys."""

    async def run(self) -> None:
        """Work beside the proxy, until cancelled."""
