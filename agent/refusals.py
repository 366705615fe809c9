"""The last refusals, by request id: what `edgemesh explain --request ID` answers on each node that the request passed."""

from __future__ import annotations

from collections import OrderedDict

from agent.accesslog import line
from nodeproxy.telemetry.report import Record

MOST = 1000  # refusals remembered, of about 1 KiB each; a flood of them pushes older ones out


class Refusals:
    """A record that was refused carries an id; all others pass by."""

    def __init__(self, node: str, most: int = MOST) -> None:
        self.node = node
        self._most = most
        self._by_id: OrderedDict[str, list[Record]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Refusals {len(self._by_id)} remembered>"

    def __call__(self, record: Record) -> None:
        if not record.id or not record.flag:
            return
        found = self._by_id.setdefault(record.id, [])
        if len(found) < 4:  # the connection and its request; a caller may send one trace id again and again
            found.append(record)
        if len(self._by_id) > self._most:
            self._by_id.popitem(last=False)

    def find(self, request_id: str) -> list[dict[str, object]]:
        """What this node knows of it, oldest first; [] when that is nothing."""
        return [{"node": self.node, "refused_by": _who(record), **line(record)} for record in self._by_id.get(request_id, ())]


def _who(record: Record) -> str:
    """Which side said no, seen from this node."""
    if record.flag == "peer-refused":
        return "the other node"
    return "this node, for the caller" if record.direction == "outbound" else "this node, for the server"
