"""policy: whether the policy of a cluster lets one pod call another, from the objects that the API server has."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from typing import Any

from agent.admin.explain import Question
from agent.commands import NO, OK, USAGE, asking, cluster, options, pods, tables, terminal
from agent.kubernetes.api import ApiServer


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "policy")
    summary = "say whether policy lets pod SRC call pod DST, on which ports and by which rule"
    made = verbs("check-pods", summary)
    made.add_argument("src", metavar="SRC", type=pods.pod_name, help="the caller: NAMESPACE/NAME of a pod")
    made.add_argument("dst", metavar="DST", type=pods.pod_name, help="the called pod: NAMESPACE/NAME")
    options.call(made)
    options.access(made)
    options.output(made)


def run(arguments: Namespace) -> int:
    """Return 1 when SRC may not call DST."""
    if arguments.verb is None:
        terminal.complain("policy needs a verb", "check-pods; edgemesh policy --help says more")
        return USAGE
    return _CHECK(arguments)


async def check(arguments: Namespace, api: ApiServer) -> int:
    """Print the verdict. It is what the objects say; edgemesh explain --node NAME is what a node decides with."""
    source, destination = await pods.find(api, arguments.src), await pods.find(api, arguments.dst)
    snapshot = await pods.snapshot_of(api, (source, destination))
    question = Question("", "", arguments.port, arguments.method.upper(), arguments.path)
    found = pods.explain(snapshot, source, destination, question)
    document = {
        "source": str(source.name),
        "destination": str(destination.name),
        "mode": "permissive" if snapshot.mesh.permissive else "SMI",
        "source_enrolled": source.enrolment.enrolled,
        "destination_enrolled": destination.enrolment.enrolled,
        "outside": [one.enrolment.why for one in (source, destination) if not one.enrolment.enrolled],
        "allowed": source.enrolment.enrolled and any(one["allowed"] for one in found),
        "declared": bool(arguments.port or pods.ports(destination)),
        "ports": found,
    }
    asking.show(arguments, document, shown)
    return OK if document["allowed"] else NO


def shown(document: dict[str, Any]) -> Iterable[Any]:
    """Yield `edgemesh policy check-pods`."""
    from rich.text import Text

    names = f"{document['source']} -> {document['destination']}"
    if not document["source_enrolled"]:
        yield Text.assemble(("denied", "bold red"), f": {names}: the caller is not in the mesh, so it has no identity")
    if not document["destination_enrolled"]:
        yield Text.assemble(("not guarded", "bold yellow"), f": {document['destination']} is not in the mesh")
    for why in document["outside"]:
        yield Text(f"    {why}", style="dim")
    if document["source_enrolled"]:
        for number, one in enumerate(document["ports"]):
            if number:
                yield ""
            yield from tables.explain(one)
        if not document["declared"]:
            yield Text(f"port      {document['destination']} declares none; --port asks about another", style="dim")
        if document["mode"] == "permissive":
            yield Text("mode      permissive: TrafficTargets are not asked (MeshConfig)", style="dim")


_CHECK: Callable[[Namespace], int] = cluster.asking(check)
