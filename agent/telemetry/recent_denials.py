"""The last refusals, by request ID: what `edgemesh explain --request ID` shows on each node that the request passed."""

from __future__ import annotations

from collections import OrderedDict

from agent.config.schema import NodeConfig
from agent.telemetry.access_log import line
from agent.telemetry.fair_share import whose
from agent.telemetry.sink import Figures, Sink
from nodeproxy.telemetry.record import Record

MOST = 1000  # refusals remembered, of about 1 KiB each; a flood displaces only its own caller's
_EACH = 4  # of one ID: connection and request on either side; a caller may repeat one trace ID endlessly


class RecentDenials(Sink):
    """Keeps records of refusals, which carry an ID of ours; it ignores all others.

    The caller chooses a trace ID, so records are found by it only where the ID asked for is none of ours: no caller can
    put its own records before another's.
    """

    def __init__(self, node: str, most: int = MOST) -> None:
        self.node = node
        self._by_id = _Index(most)
        self._by_trace = _Index(most)

    def __repr__(self) -> str:
        return f"<RecentDenials {len(self._by_id)} remembered>"

    @classmethod
    def of(cls, config: NodeConfig, figures: Figures) -> RecentDenials:
        return cls(config.node)

    def __call__(self, record: Record) -> None:
        if not record.id or not record.flag:
            return
        self._by_id.add(record.id, record)
        if record.trace:
            self._by_trace.add(record.trace, record)

    def find(self, request_id: str) -> list[dict[str, object]]:
        """Return the refusals of an ID of ours, or else of a caller's trace ID, oldest first; [] for none."""
        found = self._by_id.get(request_id) or self._by_trace.get(request_id)
        return [{"node": self.node, "refused_by": _who(record), **line(record)} for record in found]


class _Index:
    """Records by an ID, with a bound on IDs.

    The caller with the most IDs makes room, with its oldest: a flood hides only records of its own caller.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._records: dict[str, list[Record]] = {}
        self._callers: dict[str, OrderedDict[str, None]] = {}  # IDs of each caller, the oldest first

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> list[Record]:
        return self._records.get(key, [])

    def add(self, key: str, record: Record) -> None:
        found = self._records.get(key)
        if found is not None:
            if len(found) < _EACH:
                found.append(record)
            return
        self._records[key] = [record]
        caller = whose(record)
        self._callers.setdefault(caller, OrderedDict())[key] = None
        if len(self._records) > self._most:
            if len(self._callers[caller]) * len(self._callers) <= self._most:  # no more than its share
                caller = max(self._callers, key=lambda one: len(self._callers[one]))
            oldest, _ = self._callers[caller].popitem(last=False)
            if not self._callers[caller]:
                del self._callers[caller]
            del self._records[oldest]


def _who(record: Record) -> str:
    """Return which side refused, seen from this node."""
    if record.flag == "peer-refused":
        return "the other node"
    return "this node, for the caller" if record.direction == "outbound" else "this node, for the server"
