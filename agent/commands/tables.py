"""The daemon's documents as a person reads them. Pure: documents in (see agent/admin/status.py), renderables out."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.store.problems import count

Document = dict[str, Any]

_GAP, _NARROW = 3, 2  # columns of white space between two columns of text, and where the table is too wide with those
_SHOWN = 8  # namespaces in one line
_LONG_NAME, _BEGINNING = re.compile(r"^(\w+-[0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"), r"\1"  # cni-, and a UUID
_NAMED = 3  # workloads in one line
_PROSE = 40  # columns that prose needs to be readable

_SEVERITY = {"error": "bold red", "warning": "yellow", "notice": "cyan"}
_STATE = {
    "captured": "green",
    "not captured": "bold red",
    "not running": "yellow",
    "elsewhere": "dim",
    "not enrolled": "dim",
}

CERTIFICATE = {"fresh": "green", "waiting": "yellow", "stale": "yellow", "expired": "bold red", "refused": "bold red"}

_STATES = {
    "enforcing": "enforcing",
    "degraded": "DEGRADED: NOT enforcing for every workload of this node",
    "starting": "NOT enforcing yet",
}


class Rows:
    """A table where it fits the width; otherwise one block of `name  value` lines for each row.

    The last column may be `prose`, which wraps as long as there are `least` columns for it. A column without a name stands in
    the first line of a block.
    """

    def __init__(self, *columns: str, empty: str = "", prose: bool = False, least: int = _PROSE) -> None:
        self._columns = columns
        self._empty = empty
        self._prose = prose
        self._least = least
        self._rows: list[tuple[Text, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *cells: str | Text) -> None:
        self._rows.append(tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows:
            yield Text(self._empty, style="dim")
        elif gap := next((gap for gap in (_GAP, _NARROW) if self._width(gap) <= options.max_width), 0):
            yield self._table(gap)
        else:
            yield from self._blocks()

    def _width(self, gap: int) -> int:
        """Return the width that the table needs."""
        cells = [[Text(column) for column in self._columns], *self._rows]
        widths = [
            max(cell_len(line.plain) for row in cells for line in row[at].split() or [Text()])
            for at in range(len(self._columns))
        ]
        if self._prose:
            widths[-1] = min(widths[-1], self._least)
        return sum(widths) + gap * (len(widths) - 1)

    def _table(self, gap: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), collapse_padding=True, header_style="bold")
        for column in self._columns:
            table.add_column(column.upper(), no_wrap=not (self._prose and column is self._columns[-1]))
        for row in self._rows:
            table.add_row(*row)
        return table

    def _blocks(self) -> RenderResult:
        for row in self._rows:
            unnamed = [cell for column, cell in zip(self._columns, row, strict=True) if not column and cell.plain]
            yield Text("  ").join([Text(f"{self._columns[0]} {row[0].plain}", style="bold"), *unnamed])
            block = Table.grid(padding=(0, 2, 0, 0))
            block.add_column(style="dim", no_wrap=True)
            block.add_column(overflow="fold")
            for column, cell in zip(self._columns[1:], row[1:], strict=True):
                if column and cell.plain:
                    block.add_row(column, cell)
            yield Padding(block, (0, 0, 0, 2))


def _cluster(cluster: Document, now: float) -> Any:
    """Return the line of an API server."""
    age = duration(max(0.0, now - cluster["since"]))
    traffic = f"{count(cluster['requests'], 'request')}, {cluster['received_bytes'] / 1e6:.1f} MB"
    if not cluster["since"]:
        words, style = f"{cluster['place']}, not asked yet", ""
    elif cluster["connected"]:
        words = f"{cluster['place']} {cluster['version']}, connected for {age}, {traffic}"
        style = "" if cluster["synced"] else "yellow"
        if not cluster["synced"]:
            words += "; not everything is read yet"
    else:
        words, style = f"{cluster['place']}, not reached for {age}: {cluster['error']}", "bold red"
    return _fact("cluster", words, style)


_OUTCOMES = {
    "answered": "answered here",
    "cached": "from memory",
    "stale": "with old answers, for lack of new ones",
    "forwarded": "by their resolver",
    "failed": "failed",
}


def _names(names: Document, now: float) -> Iterator[Any]:
    """Yield the lines about DNS."""
    asked = names["questions"]
    if any(asked.values()):
        parts = [f"{asked[outcome]:,} {words}" for outcome, words in _OUTCOMES.items() if asked[outcome]]
        yield _fact("DNS", f"{count(sum(asked.values()), 'question')}: {', '.join(parts) or 'none answered'}")
    for down in names["down"]:
        workloads = ", ".join(down["workloads"][:_NAMED])
        more = f" and {len(down['workloads']) - _NAMED} more" if len(down["workloads"]) > _NAMED else ""
        age = duration(max(0.0, now - down["since"]))
        words = f"resolver {down['resolver']} has not answered for {age} ({workloads}{more}): names of the cluster and old answers are given"
        yield _fact("", words, "bold red")


def status(document: Document, now: float | None = None) -> Iterable[Any]:
    """Yield `edgemesh status`."""
    now = time.time() if now is None else now
    snapshot = document["snapshot"]
    yield Text.assemble(
        "node ",
        (document["node"], "bold"),
        f", edgemesh {document['version']}, pid {document['pid']}, up {duration(document['uptime_seconds'])}",
    )
    yield _fact("state", _STATES[document["state"]], "green" if document["enforcing"] else "bold red")
    yield _fact("mode", _MODES[document["mode"]])
    if document["egress"] is not None:
        yield _fact("egress", _EGRESS[document["egress"]])
    if snapshot:
        counts = f"{count(snapshot['workloads'], 'workload')}, {count(snapshot['services'], 'service')}, {count(snapshot['rules'], 'rule')}"
        age = duration(max(0.0, now - snapshot["built"]))
        yield _fact("policy", f"{counts}, from {document['directory']}, read {age} ago (build {snapshot['number']})")
    else:
        yield _fact("policy", f"none read yet from {document['directory']}")
    for cluster in document["clusters"]:
        yield _cluster(cluster, now)
    lane = document["lane"]
    if lane["native"] and not lane["served"]:
        yield _fact(
            "lane", "native: ready; it serves what comes again on a connection that stays open, and nothing did yet"
        )
    elif lane["native"]:
        dialled = f"for {lane['left_to_python']:,} Python had a connection to open"
        yield _fact("lane", f"native: {count(lane['served'], 'request')} served; {dialled}")
    else:
        yield _fact("lane", "Python only: the native lane was not compiled, or NodeConfig nativeLane is false")
    yield from _names(document["names"], now)
    yield _fact("on stop", _ON_STOP[document["on_stop"]])
    yield ""
    rows = Rows("workload", "identity", "state", "where", "out", "in", "denied", "open", empty="no workloads")
    shown, outside = _split(document)
    for item in shown:
        traffic = item["traffic"]
        out, called = (traffic[f"requests_{way}"] + traffic[f"streams_{way}"] for way in ("out", "in"))
        denied = traffic["denied_out"] + traffic["denied_in"]
        rows.add(
            Text(item["workload"], style="bold"),
            item["identity"],
            Text(item["state"], style=_STATE.get(item["state"], "")),
            place(item),
            str(out),
            str(called),
            Text(str(denied), style="red" if denied else ""),
            str(traffic["open"]),
        )
    yield rows
    if outside:
        yield Text(outside, style="dim")
    if document["nodes"]:
        yield ""
        yield _nodes(document["nodes"])
    if document["listeners"]:
        yield ""
        yield _listeners(document["listeners"])
    if document["circuits"]:
        yield ""
        circuits = Rows("circuit of", "to", "state", "by")
        for one in document["circuits"]:
            circuits.add(
                one["caller"], f"{one['service']}, port {one['port']}", Text(one["state"], style="red"), one["by"]
            )
        yield circuits
    if document["holes"]:
        yield ""
        yield Text("not seen or not stopped", style="bold")
        holes = Rows("workload", "count", "what", prose=True)
        for workload, number, meaning in _alike(document["holes"]):
            holes.add(workload, str(number), meaning)
        yield holes
    yield ""
    yield from problems(document["problems"])


def _alike(holes: Sequence[Document]) -> Iterator[tuple[str, int, str]]:
    """Yield (workload, count, meaning); what is the same of many workloads once, with some of their names.

    Containers hold NET_RAW by default: a line for each pod of a node would bury the lines that say something.
    """
    same: dict[str, list[Document]] = {}
    for hole in holes:
        same.setdefault(hole["meaning"] if hole["workload"] else "", []).append(hole)
    for hole in holes:
        group = same[hole["meaning"]] if hole["workload"] else []
        if len(group) <= _NAMED:
            yield hole["workload"] or "the node", hole["count"], hole["meaning"]
        elif hole is group[0]:
            names = ", ".join(one["workload"] for one in group[:_NAMED])
            yield f"{len(group)} workloads", sum(one["count"] for one in group), f"{hole['meaning']} ({names} ...)"


def _split(document: Document) -> tuple[Sequence[Document], str]:
    """Return the workloads to show, and a line about the others.

    In a cluster most pods of a node may be outside the mesh, and some always are: they are counted, by namespace. What
    a directory's manifests leave out, somebody wrote there by hand: it is shown.
    """
    if not document["clusters"]:
        return document["workloads"], ""
    shown = [item for item in document["workloads"] if item["state"] != "not enrolled"]
    left = Counter(
        item["workload"].partition("/")[0] for item in document["workloads"] if item["state"] == "not enrolled"
    )
    if not left:
        return shown, ""
    names = ", ".join(f"{number} of {name}" for name, number in sorted(left.items())[:_SHOWN])
    more = " ..." if len(left) > _SHOWN else ""
    return shown, f"outside the mesh: {count(left.total(), 'workload')} ({names}{more}); -o json says why"


def _nodes(found: Sequence[Document]) -> Rows:
    """Return other nodes. Whether a node can be reached is unknown until a call tries."""
    rows = Rows("node", "addresses", "reached", "since", "last seen", "connections", "last error", prose=True)
    for item in found:
        reached = (
            Text("no call yet")
            if item["reachable"] is None
            else Text("yes", "green")
            if item["reachable"]
            else Text("NO", "bold red")
        )
        since, seen = item["since_seconds"], item["seen_seconds"]
        rows.add(
            Text(item["node"], style="bold"),
            ", ".join(item["addresses"]),
            reached,
            "" if since is None else duration(since),
            "" if seen is None else "now" if not seen else f"{duration(seen)} ago",
            str(item["connections"]),
            ": ".join(filter(None, (item["flag"], item["error"]))),
        )
    return rows


def awaited(certificate: Document) -> str:
    """Return what is wrong with a certificate, or what its open request waits for."""
    return certificate["awaits"] or ": ".join(filter(None, (certificate["error"], certificate["hint"])))


def problems(found: Sequence[Document]) -> Iterable[Any]:
    """Yield each problem with its place and what to do, then what is asked for and not done, then the counts."""
    unmet = [item for item in found if item["unmet"]]
    yield from _told([item for item in found if not item["unmet"]])
    if unmet:
        yield Text("asked for and not done", style="bold")
        yield from _told(unmet)
    yield summary(found)


def _told(found: Sequence[Document]) -> Iterable[Any]:
    for item in found:
        place = f"{item['file']}:{item['line']}" if item["line"] else item["file"]
        what = f"{item['object']}: " if item["object"] else ""
        yield Text.assemble(
            f"{place}: " if place else "",
            (item["severity"], _SEVERITY.get(item["severity"], "")),
            f": {what}{item['message']}",
        )
        if item["hint"]:
            yield Text(f"    {item['hint']}", style="dim")


def summary(found: Sequence[Document]) -> str:
    """Return how many of each severity there are, as in "2 errors, 1 warning"."""
    counts = [(sum(1 for item in found if item["severity"] == severity), severity) for severity in _SEVERITY]
    return ", ".join(count(number, severity) for number, severity in counts if number) or "no problems"


def routes(services: Sequence[Document]) -> Iterable[Any]:
    """Yield `edgemesh routes`: where each service's ports lead, how calls are split, and the permitted callers."""
    nodes = any(item["node"] for service in services for port in service["ports"] for item in port["endpoints"])
    last = ("workload", "node") if nodes else ("workload",)
    ports = Rows("service", "port", "protocol", "endpoint", *last, empty="no services")
    notes = Rows("service", "note")
    addresses = Rows("service", "addresses")
    splits = Rows("service", "split", "backends")
    callers = Rows("service", "may be called by", "rule")
    entrances = [service for service in services if service["listener"]]
    for service in services:
        if service["listener"]:
            continue
        name = Text(service["service"], style="bold")
        addresses.add(name, ", ".join(service["addresses"]) or "none (headless): its name means its endpoints")
        if service["affinity_seconds"]:
            kept = duration(service["affinity_seconds"])
            notes.add(name, f"sessionAffinity: calls of one workload stay at one endpoint for {kept}")
        if service.get("balancing"):  # a node of before does not say
            notes.add(name, service["balancing"])
        for words in service["bounds"]:
            notes.add(name, words)
        for port in service["ports"]:
            number = f"{port['port']}{'/udp' if port['transport'] == 'udp' else ''}"
            endpoints = "\n".join(item["endpoint"] for item in port["endpoints"])
            workloads = "\n".join(map(_served_by, port["endpoints"]))
            where = ("\n".join(item["node"] for item in port["endpoints"]),) if nodes else ()
            ports.add(name, number, port["protocol"], endpoints or Text("none", style="red"), workloads, *where)
            if port["restricted"]:
                used = sum(item["used"] for item in port["endpoints"])
                some = f"{used} of {len(port['endpoints'])} endpoints for callers of this node"
                notes.add(name, f"port {number}: {some} ({port['restricted']})")
        for split in service["splits"]:
            whole = sum(backend["weight"] for backend in split["backends"])
            shares = [
                f"{item['service']} {item['weight']} ({_share(item['weight'], whole)})" for item in split["backends"]
            ]
            only = f" (only {', '.join(split['matches'])})" if split["matches"] is not None else ""
            place = "".join(
                (
                    f", port {split['port']}" if split["port"] else "",
                    f", called from {split['callers']}" if split["callers"] else "",
                )
            )
            told = [*shares, *split["filters"], *([f"refused: {split['refuses']}"] if split["refuses"] else [])]
            splits.add(name, f"{split['name']}{place}{only}", "\n".join(told))
        for caller in service["callers"]:
            callers.add(name, caller["source"], caller["rule"])
        for caller in service["plain_callers"]:
            callers.add(name, f"{caller['source']}, in plain text", caller["rule"])
        for caller in service["gateway_callers"]:
            callers.add(name, f"{caller['source']}, from outside", caller["rule"])
    yield ports
    for rows in (notes, splits, _entrances(entrances), callers, addresses):
        if rows:
            yield ""
            yield rows


def _listeners(found: Sequence[Document]) -> Rows:
    """Return the listeners of Gateways, those that are well too."""
    rows = Rows("listener", "protocol", "host", "routes", "state", prose=True)
    for one in found:
        protocol = f"{one['protocol']} {one['port']}" + (", asks certificates" if one["asks_for_certificates"] else "")
        match one["state"]:
            case "open":
                state = Text(f"open at {', '.join(one['open_at'])}", style="green")
            case "elsewhere":
                state = Text("not at an address of this node", style="dim")
            case _:
                at = f" (open at {', '.join(one['open_at'])})" if one["open_at"] else ""
                state = Text(f"{one['why']}{at}", style="bold red")
        routes = str(one["routes"]) if one["routes"] else Text("none", style="yellow")
        rows.add(Text(one["listener"], style="bold"), protocol, one["host"] or "every host", routes, state)
    return rows


def _entrances(hosts: Sequence[Document]) -> Rows:
    """Return where callers from outside are led by each host of a listener, rule by rule."""
    rows = Rows("listener", "host", "rule", "backends")
    for one in hosts:
        for rule in one["splits"]:
            only = f" (only {', '.join(rule['matches'])})" if any(rule["matches"] or ()) else ""
            told = [f"{backend['service']} {backend['weight']}" for backend in rule["backends"]]
            told += [*rule["filters"], *([f"refused: {rule['refuses']}"] if rule["refuses"] else [])]
            name = Text(one["listener"], style="bold")
            rows.add(name, one["host"] or "every host", f"{rule['name']}{only}", "\n".join(told) or "none")
    return rows


def _served_by(endpoint: Document) -> str:
    """Return the workload of an endpoint, or what is there instead."""
    match endpoint["place"]:
        case "outside":
            return "(outside the mesh)"
        case "unknown":
            return "(not known yet)"
        case "left out":
            return f"{endpoint['workload']} (not in the mesh)"
    return str(endpoint["workload"])


def connections(found: Sequence[Document]) -> Iterable[Any]:
    """Yield `edgemesh connections`."""
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
    """Yield `edgemesh explain`: the verdict first, then its reasons."""
    yield _verdict(
        document, f"{document['source']} -> {document['destination']} port {document['port']}, {document['asked']}"
    )
    if not document["choices"]:
        yield from _why(document)
    for choice in document["choices"]:
        yield ""
        yield _verdict(choice, f"endpoint {choice['endpoint']}" if choice["endpoint"] else "a backend")
        yield from _why(choice)


def _verdict(found: Document, of: str) -> Text:
    word, style = ("allowed", "bold green") if found["allowed"] else ("denied", "bold red")
    if len({choice["allowed"] for choice in found["choices"]}) > 1:
        word, style = "denied at some endpoints", "bold red"
    elif found["requests"] or any(choice["requests"] for choice in found["choices"]):
        word = "allowed for some requests"
    return Text.assemble((word, style), f": {of}")


def _why(found: Document) -> Iterable[Any]:
    if found["requests"]:
        yield _fact("these", "\n".join(found["requests"]))
        yield _fact("ask", "--method and --path ask about one of them")
    elif found["allowed"]:
        yield _fact("by", found["rule"])
    else:
        yield _fact("why", ": ".join(filter(None, (found["reason"], found["meaning"]))))
        if found["missing"]:
            yield _fact("missing", found["missing"])
    if found["dry_run"]:
        yield _fact("dry-run", found["dry_run"])
    if found["steps"]:
        yield _fact("steps", "\n".join(found["steps"]))


def refusals(document: list[Document], nodes: str = "") -> Iterable[Any]:
    """Yield `edgemesh explain --request`. `nodes`: the option that it was asked with, which the next question needs too."""
    for item in document:
        what = " ".join(filter(None, (item["method"], item["path"]))) or item["protocol"] or item["kind"]
        yield Text.assemble(("refused", "bold red"), f" by {item['refused_by']} (node {item['node']}): {what}")
        yield _fact("when", item["time"])
        yield _fact(
            "caller", " ".join(filter(None, (item["source"] or "no identity proved", f"from {item['source_address']}")))
        )
        yield _fact("called", " -> ".join(filter(None, (item["dialled"], item["endpoint"], item["destination"]))))
        yield _fact("why", ": ".join(filter(None, (item["flag"], item["detail"]))))
        if again := _again(item):
            yield _fact("ask", " ".join(filter(None, (again, nodes))))
        if item["tls_peer"]:
            yield _fact("peer", f"{item['tls_peer']}, {item['tls_version']} {item['tls_cipher']}")


def _again(item: Document) -> str:
    """Return the command that asks which rule is nearest to the refused call; "" when the caller is unknown."""
    if not item["source"] or not item["dialled"]:
        return ""
    port = item["dialled"].rpartition(":")[2]
    to = f"{item['service']} --port {port}" if item["service"] else item["dialled"]
    words = ["edgemesh explain", item["source"], to]
    if item["kind"] == "request" and item["method"]:
        words += ["--method", shlex.quote(item["method"]), "--path", shlex.quote(item["path"] or "/")]
    return " ".join(words)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "3 h 12 min"."""
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
    """Return a size in bytes or its largest unit of 1024: "12 KiB"."""
    value = float(count)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value >= 1024:
            value /= 1024
            unit = larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"


def place(item: Document) -> str:
    """Return where a workload is, short: a runtime's names of namespaces are long, and their first part tells them apart."""
    known, found, name = item["place"].partition("/run/netns/")
    if found and known in ("", "network namespace "):
        return f"netns {_LONG_NAME.sub(_BEGINNING, name)}"
    return item["place"] or ", ".join(item["addresses"])


def _fact(name: str, words: str, style: str = "") -> Any:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(style="dim", width=8)
    line.add_column(overflow="fold")
    line.add_row(name, Text(words, style=style))
    return line


def _share(weight: int, whole: int) -> str:
    return f"{100 * weight / whole:.0f} %" if whole else "no turns"


_MODES = {
    "SMI": "SMI: a call between workloads passes when a TrafficTarget admits it",
    "permissive": "permissive: every call between workloads passes (MeshConfig enablePermissiveTrafficPolicyMode)",
    "starting": "starting: no policy has been read yet",
}
_EGRESS = {
    True: "destinations outside the mesh pass (MeshConfig traffic.enableEgress: false refuses them)",
    False: "only what an Egress names passes to the outside (MeshConfig traffic.enableEgress is false)",
}
_ON_STOP = {
    "closed": "closed: when edgemesh stops, captured workloads are refused every call until it is back",
    "open": "open: when edgemesh stops, its rules go and calls pass unchecked",
}
