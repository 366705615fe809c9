"""What several nodes answered, as a person reads it. Pure: answers in (agent/commands/nodes.py), renderables out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from rich.text import Text

from agent.commands import tables
from agent.commands.tables import CERTIFICATE, Rows, duration, size

Document = dict[str, Any]

_COUNTS = len("12 warnings,")  # columns in which counts of problems are still readable


class Answer(Protocol):
    """What one node answered: its document, or an error with a hint; `status`: of a refusal by its daemon, else 0."""

    @property
    def node(self) -> str: ...
    @property
    def document(self) -> Any: ...
    @property
    def error(self) -> str: ...
    @property
    def hint(self) -> str: ...
    @property
    def status(self) -> int: ...


def status(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield the state of every node, then what is wrong: each problem once, with the nodes that have it."""
    rows = Rows(
        "node", "state", "version", "up", "captured", "out", "in", "denied", "problems", prose=True, least=_COUNTS
    )
    problems: dict[tuple[str, ...], list[str]] = {}
    for answer in _answered(answers):
        found = answer.document
        here = [one for one in found["workloads"] if one["state"] in ("captured", "not captured")]
        captured = sum(1 for one in here if one["state"] == "captured")
        # Those of other nodes are in its document too, as the other side of these calls.
        traffic = [one["traffic"] for one in found["workloads"] if one["state"] != "elsewhere"]
        denied = sum(one["denied_out"] + one["denied_in"] for one in traffic)
        rows.add(
            Text(answer.node, style="bold"),
            Text(found["state"], style="green" if found["enforcing"] else "bold red"),
            found["version"],
            duration(found["uptime_seconds"]),
            Text(f"{captured} of {len(here)}", style="" if captured == len(here) else "bold red"),
            str(sum(one["requests_out"] + one["streams_out"] for one in traffic)),
            str(sum(one["requests_in"] + one["streams_in"] for one in traffic)),
            Text(str(denied), style="red" if denied else ""),
            tables.summary(found["problems"]),
        )
        for one in found["problems"]:
            key = tuple(str(one[name]) for name in ("severity", "object", "message", "hint"))
            problems.setdefault(key, []).append(answer.node)
    if rows:
        yield rows
    yield from _silent(answers)
    missed = [
        (answer.node, one)
        for answer in _answered(answers)
        for one in answer.document["workloads"]
        if one["state"] == "not captured"
    ]
    if missed:
        yield ""
        lost = Rows("not captured", "identity", "node")
        for node, one in missed:
            lost.add(Text(one["workload"], style="bold red"), one["identity"], node)
        yield lost
    if problems:
        yield ""
    for (severity, object, message, hint), nodes in sorted(problems.items(), key=lambda item: _order(item[0][0])):
        style = {"error": "bold red", "warning": "yellow"}.get(severity, "cyan")
        what = f"{object}: " if object else ""
        yield Text.assemble((severity, style), f" on {_named(nodes, answers)}: {what}{message}")
        if hint:
            yield Text(f"    {hint}", style="dim")


def certs(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield the certificates of every node, and the roots that each believes."""
    rows = Rows("node", "identity", "state", "expires in", "asked again in", "last error", prose=True)
    roots: dict[str, list[str]] = {}
    for answer in _answered(answers):
        found = answer.document
        if not found["certificates"]:
            rows.add(
                Text(answer.node, style="bold"),
                Text("none", style="yellow"),
                "",
                "",
                "",
                (found["authority"] or {"error": "this node has joined no mesh"})["error"],
            )
        for one in found["certificates"]:
            ends, asked = one["expires_in_seconds"], one["asked_in_seconds"]
            rows.add(
                Text(answer.node, style="bold"),
                one["identity"],
                Text(one["state"], style=CERTIFICATE.get(one["state"], ""))
                if one["wanted"]
                else Text("not wanted any more", style="dim"),
                "" if ends is None else duration(ends) if ends > 0 else Text("expired", style="bold red"),
                "" if asked is None else duration(asked) if asked else "now",
                tables.awaited(one),
            )
        for root in found["roots"]:
            roots.setdefault(root["fingerprint"], []).append(answer.node)
    if rows:
        yield rows
    yield from _silent(answers)
    if roots:
        yield ""
    for fingerprint, nodes in roots.items():
        everywhere = len(nodes) == len(_answered(answers))
        yield Text(f"root {fingerprint}: {_named(nodes, answers)}", style="" if everywhere else "yellow")


def connections(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield the open connections of every node."""
    rows = Rows(
        "node", "id", "from", "to", "endpoint", "protocol", "age", "in", "out", "now", empty=_none_open(answers)
    )
    for answer in _answered(answers):
        for one in answer.document:
            target = one["service"] or one["destination"] or one["dialled"]
            rows.add(
                Text(answer.node, style="bold"),
                str(one["id"]),
                one["source"] or one["source_address"],
                f"{target} ({one['dialled']})" if target != one["dialled"] else target,
                one["endpoint"],
                one["protocol"],
                duration(one["age_seconds"]),
                size(one["bytes_in"]),
                size(one["bytes_out"]),
                one["request"] or ("moving" if one["active"] else "idle"),
            )
    if _answered(answers):
        yield rows
    yield from _silent(answers)


def routes(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield the services as each node sees them: its own endpoints of a split or of traffic that stays local."""
    for number, answer in enumerate(_answered(answers)):
        if number:
            yield ""
        yield Text(f"on node {answer.node}:", style="bold")
        yield from tables.routes(answer.document)
    yield from _silent(answers)


def explain(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield each node's verdict, then the reasons: those of a node that denies the call, if one does."""
    found = _answered(answers)
    rows = Rows("node", "verdict", "by")
    for answer in found:
        document = answer.document
        allowed = document["allowed"]
        rows.add(
            Text(answer.node, style="bold"),
            Text("allowed", "green") if allowed else Text("denied", "bold red"),
            document["rule"] if allowed else document["reason"],
        )
    if rows:
        yield rows
    yield from _silent(answers)
    if found:
        told = next((answer for answer in found if not answer.document["allowed"]), found[0])
        yield ""
        yield Text(f"on node {told.node}:", style="dim")
        yield from tables.explain(told.document)


def refusals(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield the records of one refused request, from every node that has one."""
    for answer in _answered(answers):
        yield from tables.refusals(answer.document, "--all-nodes")
    unknown = [answer.node for answer in answers if answer.error and answer.status == 404]
    if unknown and len(unknown) == len(answers):
        yield Text("no node knows a refusal with this id: each forgets the oldest, and all when its daemon restarts")
    elif unknown:
        yield Text(f"not known on {_named(unknown, answers)}", style="dim")
    yield from _silent([answer for answer in answers if answer.status != 404])


def _answered(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if not answer.error]


def _silent(answers: Sequence[Answer]) -> Iterable[Any]:
    """Yield what daemons refused to answer, each once with its nodes; then the nodes that did not answer, and why."""
    refused: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        if answer.error and answer.status:
            refused.setdefault((answer.error, answer.hint), []).append(answer.node)
    if refused and len(answers) > sum(map(len, refused.values())):
        yield ""
    for (error, hint), nodes in refused.items():
        yield Text.assemble((_named(nodes, answers), "bold red"), f": {error}")
        if hint:
            yield Text(f"    {hint}", style="dim")
    silent = [answer for answer in answers if answer.error and not answer.status]
    if not silent:
        return
    if len(silent) < len(answers):
        yield ""
    rows = Rows("no answer from", "why", prose=True)
    for answer in silent:
        rows.add(Text(answer.node, style="bold red"), "\n".join(filter(None, (answer.error, answer.hint))))
    yield rows


def _none_open(answers: Sequence[Answer]) -> str:
    told = _named([answer.node for answer in _answered(answers)], answers)
    return f"no connection is open on {told}" if len(answers) > 1 else "no connection is open"


def _named(nodes: Sequence[str], answers: Sequence[Answer]) -> str:
    if len(nodes) == len(answers) > 1:
        return "all nodes"
    shown = ", ".join(nodes[:5])
    return f"{shown} and {len(nodes) - 5} more" if len(nodes) > 5 else shown


_order: Callable[[str], int] = ("error", "warning", "notice").index
