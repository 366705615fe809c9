"""Answers of the daemon -> what a person reads. Pure: documents in (see agent/status.py), renderables out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Document = dict[str, Any]

_GAP = 3  # columns of white space between two columns of text
_PROSE = 40  # columns that prose needs to be readable

_SEVERITY = {"error": "bold red", "warning": "yellow", "notice": "cyan"}
_STATE = {"captured": "green", "not captured": "bold red", "elsewhere": "dim", "not enrolled": "dim"}


class Rows:
    """A table where it fits the width; where it does not, one block of `name  value` lines for each row.

    The last column may be `prose`, which wraps as long as there is some room for it.
    """

    def __init__(self, *columns: str, empty: str = "", prose: bool = False) -> None:
        self._columns = columns
        self._empty = empty
        self._prose = prose
        self._rows: list[tuple[Text, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *cells: str | Text) -> None:
        self._rows.append(tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows:
            yield Text(self._empty, style="dim")
        elif self._width() <= options.max_width:
            yield self._table()
        else:
            yield from self._blocks()

    def _width(self) -> int:
        """What the table needs."""
        cells = [[Text(column) for column in self._columns], *self._rows]
        widths = [max(cell_len(line.plain) for row in cells for line in row[at].split() or [Text()]) for at in range(len(self._columns))]
        if self._prose:
            widths[-1] = min(widths[-1], _PROSE)
        return sum(widths) + _GAP * (len(widths) - 1)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), collapse_padding=True, header_style="bold")
        for column in self._columns:
            table.add_column(column.upper(), no_wrap=not (self._prose and column is self._columns[-1]))
        for row in self._rows:
            table.add_row(*row)
        return table

    def _blocks(self) -> RenderResult:
        for row in self._rows:
            yield Text(f"{self._columns[0]} {row[0].plain}", style="bold")
            block = Table.grid(padding=(0, 2, 0, 0))
            block.add_column(style="dim", no_wrap=True)
            block.add_column(overflow="fold")
            for column, cell in zip(self._columns[1:], row[1:], strict=True):
                if cell.plain:
                    block.add_row(column, cell)
            yield Padding(block, (0, 0, 0, 2))


def status(document: Document, now: float | None = None) -> Iterable[Any]:
    """`edgemesh status`."""
    now = time.time() if now is None else now
    snapshot = document["snapshot"]
    yield Text.assemble(
        "node ",
        (document["node"], "bold"),
        f", edgemesh {document['version']}, pid {document['pid']}, up {duration(document['uptime_seconds'])}",
    )
    yield _fact("state", "enforcing" if document["enforcing"] else "NOT enforcing yet", "green" if document["enforcing"] else "bold red")
    yield _fact("mode", _MODES[document["mode"]])
    if document["egress"] is not None:
        yield _fact("egress", _EGRESS[document["egress"]])
    if snapshot:
        counts = (
            f"{_count(snapshot['workloads'], 'workload')}, {_count(snapshot['services'], 'service')}, {_count(snapshot['rules'], 'rule')}"
        )
        age = duration(max(0.0, now - snapshot["built"]))
        yield _fact("policy", f"{counts}, from {document['directory']}, read {age} ago (build {snapshot['number']})")
    else:
        yield _fact("policy", f"none read yet from {document['directory']}")
    lane = document["lane"]
    if lane["native"]:
        yield _fact("lane", f"native: {lane['served']:,} requests served, {lane['left_to_python']:,} left to Python")
    else:
        yield _fact("lane", "Python only: the native lane was not compiled, or NodeConfig nativeLane is false")
    yield _fact("on stop", _ON_STOP[document["on_stop"]])
    yield ""
    rows = Rows("workload", "identity", "state", "where", "calls out", "calls in", "denied", "open", empty="no workloads")
    for item in document["workloads"]:
        traffic = item["traffic"]
        out, called = (traffic[f"requests_{way}"] + traffic[f"streams_{way}"] for way in ("out", "in"))
        denied = traffic["denied_out"] + traffic["denied_in"]
        rows.add(
            Text(item["workload"], style="bold"),
            item["identity"],
            Text(item["state"], style=_STATE.get(item["state"], "")),
            _place(item),
            str(out),
            str(called),
            Text(str(denied), style="red" if denied else ""),
            str(traffic["open"]),
        )
    yield rows
    if document["holes"]:
        yield ""
        yield Text("not seen or not stopped", style="bold")
        holes = Rows("workload", "count", "what", prose=True)
        for hole in document["holes"]:
            holes.add(hole["workload"] or "the node", str(hole["count"]), hole["meaning"])
        yield holes
    yield ""
    yield from problems(document["problems"])


def problems(found: Sequence[Document]) -> Iterable[Any]:
    """Each problem with its place and what to do, then how many there are."""
    for item in found:
        place = f"{item['file']}:{item['line']}" if item["line"] else item["file"]
        what = f"{item['object']}: " if item["object"] else ""
        yield Text.assemble(
            f"{place}: " if place else "", (item["severity"], _SEVERITY.get(item["severity"], "")), f": {what}{item['message']}"
        )
        if item["hint"]:
            yield Text(f"    {item['hint']}", style="dim")
    yield summary(found)


def summary(found: Sequence[Document]) -> str:
    """How many of each severity there are, as in "2 errors, 1 warning"."""
    counts = [(sum(1 for item in found if item["severity"] == severity), severity) for severity in _SEVERITY]
    return ", ".join(_count(count, severity) for count, severity in counts if count) or "no problems"


def routes(services: Sequence[Document]) -> Iterable[Any]:
    """`edgemesh routes`: where each service's ports lead, how calls are split, and who may call."""
    ports = Rows("service", "port", "protocol", "endpoint", "workload", empty="no services")
    addresses = Rows("service", "addresses")
    splits = Rows("service", "split", "backends")
    callers = Rows("service", "may be called by", "rule")
    for service in services:
        name = Text(service["service"], style="bold")
        addresses.add(name, ", ".join(service["addresses"]))
        for port in service["ports"]:
            number = f"{port['port']}{'/udp' if port['transport'] == 'udp' else ''}"
            endpoints = "\n".join(item["endpoint"] for item in port["endpoints"])
            workloads = "\n".join(item["workload"] for item in port["endpoints"])
            ports.add(name, number, port["protocol"], endpoints or Text("none", style="red"), workloads)
        if split := service["split"]:
            whole = sum(backend["weight"] for backend in split["backends"])
            shares = [f"{item['service']} {item['weight']} ({_share(item['weight'], whole)})" for item in split["backends"]]
            only = f" (only {', '.join(split['matches'])})" if split["matches"] is not None else ""
            splits.add(name, f"{split['name']}{only}", "\n".join(shares))
        for caller in service["callers"]:
            callers.add(name, caller["source"], caller["rule"])
    yield ports
    for rows in (splits, callers, addresses):
        if rows:
            yield ""
            yield rows


def connections(found: Sequence[Document]) -> Iterable[Any]:
    """`edgemesh connections`."""
    rows = Rows("id", "from", "to", "endpoint", "protocol", "age", "in", "out", "now", empty="no connection is open")
    for item in found:
        target = item["service"] or item["destination"] or item["dialled"]
        rows.add(
            Text(str(item["id"]), style="bold"),
            item["source"] or item["source_address"],
            f"{target} ({item['dialled']})" if target != item["dialled"] else target,
            item["endpoint"],
            item["protocol"],
            duration(item["age_seconds"]),
            size(item["bytes_in"]),
            size(item["bytes_out"]),
            item["request"] or ("moving" if item["active"] else "idle"),
        )
    yield rows


def explain(document: Document) -> Iterable[Any]:
    """`edgemesh explain`: the verdict first, then what it comes from."""
    yield _verdict(document, f"{document['source']} -> {document['destination']} port {document['port']}, {document['asked']}")
    if not document["choices"]:
        yield from _why(document)
    for choice in document["choices"]:
        yield ""
        yield _verdict(choice, f"endpoint {choice['endpoint']}" if choice["endpoint"] else "a backend")
        yield from _why(choice)


def _verdict(found: Document, of: str) -> Text:
    word, style = ("allowed", "bold green") if found["allowed"] else ("denied", "bold red")
    if len({choice["allowed"] for choice in found["choices"]}) > 1:
        word = "denied at some endpoints"
    return Text.assemble((word, style), f": {of}")


def _why(found: Document) -> Iterable[Any]:
    if found["allowed"]:
        yield _fact("by", found["rule"])
    else:
        yield _fact("why", ": ".join(filter(None, (found["reason"], found["meaning"]))))
        if found["lacked"]:
            yield _fact("lacked", found["lacked"])
    if found["steps"]:
        yield _fact("way", "\n".join(found["steps"]))


def refusals(document: list[Document]) -> Iterable[Any]:
    for item in document:
        what = " ".join(filter(None, (item["method"], item["path"]))) or item["protocol"] or item["kind"]
        yield Text.assemble(("refused", "bold red"), f" by {item['refused_by']} (node {item['node']}): {what}")
        yield _fact("when", item["time"])
        yield _fact("caller", " ".join(filter(None, (item["source"] or "no identity proved", f"from {item['source_address']}"))))
        yield _fact("called", " -> ".join(filter(None, (item["dialled"], item["endpoint"], item["destination"]))))
        yield _fact("why", ": ".join(filter(None, (item["flag"], item["detail"]))))
        if item["tls_peer"]:
            yield _fact("peer", f"{item['tls_peer']}, {item['tls_version']} {item['tls_cipher']}")


def duration(seconds: float) -> str:
    """In the two largest units: "3 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = int(seconds)
    parts: list[str] = []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= unit or (parts and len(parts) < 2):
            parts.append(f"{left // unit} {name}")
            left %= unit
    return " ".join(parts[:2])


def size(count: int) -> str:
    """In bytes or the largest unit of 1024 that it has: "12 KiB"."""
    value = float(count)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value >= 1024:
            value /= 1024
            unit = larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"


def _place(item: Document) -> str:
    named = item["place"].removeprefix("/run/netns/")
    return f"netns {named}" if named != item["place"] else item["place"] or ", ".join(item["addresses"])


def _fact(name: str, words: str, style: str = "") -> Any:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(style="dim", width=8)
    line.add_column(overflow="fold")
    line.add_row(name, Text(words, style=style))
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _share(weight: int, whole: int) -> str:
    return f"{100 * weight / whole:.0f} %" if whole else "no turns"


_MODES = {
    "SMI": "SMI: a call between workloads passes when a TrafficTarget admits it",
    "permissive": "permissive: every call between workloads passes (MeshConfig enablePermissiveTrafficPolicyMode)",
    "starting": "starting: no policy has been read yet",
}
_EGRESS = {
    True: "destinations outside the mesh pass (MeshConfig traffic.enableEgress is true)",
    False: "destinations outside the mesh are refused (MeshConfig traffic.enableEgress is false)",
}
_ON_STOP = {
    "closed": "closed: when edgemesh stops, captured workloads are refused every call until it is back",
    "open": "open: when edgemesh stops, its rules go and calls pass unchecked",
}
