"""verify: everything that a call from one pod to another needs, checked one after another."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from msgspec import Struct, to_builtins

from agent.admin.explain import Question, query
from agent.commands import NO, OK, USAGE, asking, cluster, nodes, options, pods, terminal
from agent.commands.cluster import Mistake
from agent.commands.pods import Found
from agent.kubernetes.api import ApiError, ApiServer
from policy.enrolment import NEVER

Document = dict[str, Any]


class Check(Struct):
    """One thing that the call needs. `do`: what to do where it is not so."""

    what: str
    result: Literal["yes", "NO", "unknown"]
    detail: str = ""
    do: str = ""


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "verify")
    summary = "check all that a call from one pod to another needs, and say what to do where something is missing"
    made = verbs("connectivity", summary)
    for option, said in (("--from-pod", "the caller"), ("--to-pod", "the called pod")):
        made.add_argument(option, metavar="NS/POD", type=pods.pod_name, required=True, help=said)
    options.call(made)
    options.cluster(made)
    options.output(made)


def run(arguments: Namespace) -> int:
    """Return 1 when something is missing, or could not be looked at."""
    if arguments.verb is None:
        terminal.complain("verify needs a verb", "connectivity; edgemesh verify --help says more")
        return USAGE
    return _VERIFY(arguments)


async def verify(arguments: Namespace, api: ApiServer) -> int:
    """Make the checks and print them. No call is made: an application may not like one."""
    source, destination = await pods.find(api, arguments.from_pod), await pods.find(api, arguments.to_pod)
    namespace = cluster.mesh_namespace(arguments)
    checks: list[Check] = []
    for found in (source, destination):
        checks += [_runs(found), _enrolled(found)]
    for found in (source, destination):
        if found.node and found.enrolment.enrolled:
            checks += await _on_node(api, namespace, found, destination if found is source else source)
    checks += await _policy(api, source, destination, arguments)
    if source.enrolment.enrolled and source.node:
        for node in dict.fromkeys((source.node, destination.node)):
            if node:
                checks.append(await _decided(api, namespace, node, source, destination, arguments))
    document = {"from": str(source.name), "to": str(destination.name), "checks": to_builtins(checks)}
    asking.show(arguments, document, shown)
    return OK if all(check.result == "yes" for check in checks) else NO


def _runs(found: Found) -> Check:
    what = f"{found.name} runs"
    status = found.pod.get("status") or {}
    if found.phase == "Running" and status.get("podIP"):
        return Check(what, "yes", f"on node {found.node}, at {status['podIP']}")
    describe = f"kubectl describe pod --namespace {found.name.namespace} {found.name.name}"
    return Check(what, "NO", f"it is {found.phase}", describe)


def _enrolled(found: Found) -> Check:
    what = f"{found.name} is in the mesh"
    if found.enrolment.enrolled:
        return Check(what, "yes", f"its identity is {found.identity}")
    name = found.name.namespace
    do = "" if name in NEVER else f"edgemesh namespace add {name}; the pod's annotations may keep it out too"
    return Check(what, "NO", found.enrolment.why, do)


async def _asked(
    api: ApiServer, namespace: str, node: str, path: str, words: Sequence[tuple[str, str]] = ()
) -> tuple[Any, Check | None]:
    """Return what a node's daemon answers, or the Check that says why it did not."""
    what = f"the daemon of node {node} answers"
    try:
        (found,) = await nodes.ask(api, namespace, path, words, node)
    except Mistake as mistake:
        return None, Check(what, "NO", str(mistake), mistake.hint)
    except ApiError as error:
        message, hint = cluster.refusal(error)
        return None, Check(what, "unknown", message, hint)
    if found.error:
        return None, Check(what, "unknown" if found.status else "NO", found.error, found.hint)
    return found.document, None


async def _on_node(api: ApiServer, namespace: str, found: Found, other: Found) -> list[Check]:
    """Check what only the pod's own node knows: whether it is captured, has a certificate, and reaches the other."""
    node = found.node
    status, failed = await _asked(api, namespace, node, "/status")
    if failed is not None:
        return [failed]
    checks = [_captured(found, status)]
    if other.node == node or not other.node:
        return checks  # on one node, the caller's socket proves who it is
    certs, failed = await _asked(api, namespace, node, "/certs")
    checks.append(failed if failed is not None else _certified(found, certs))
    if reached := _reached(node, other.node, status):
        checks.append(reached)
    return checks


def _captured(found: Found, status: Document) -> Check:
    what = f"{found.name} is captured"
    see = f"edgemesh status --node {found.node}"
    mine = next((one for one in status["workloads"] if one["workload"] == str(found.name)), None)
    if mine is None:
        return Check(what, "NO", f"node {found.node} does not know it", see)
    if mine["state"] == "captured":
        from agent.commands.tables import place

        return Check(what, "yes", place(mine))
    return Check(what, "NO", ": ".join(filter(None, (mine["state"], mine["detail"]))), see)


def _certified(found: Found, certs: Document) -> Check:
    what = f"{found.identity} has a certificate on node {found.node}"
    mine = next((one for one in certs["certificates"] if one["identity"] == found.identity and one["wanted"]), None)
    see = f"edgemesh certs --node {found.node}"
    if mine is None:
        return Check(what, "NO", "the node has not asked for one", see)
    if (mine["expires_in_seconds"] or 0) <= 0:
        return Check(what, "NO", mine["error"] or "it has none yet, or it has expired", mine["hint"] or see)
    from agent.commands.tables import duration

    return Check(what, "yes", f"for another {duration(mine['expires_in_seconds'])}")


def _reached(node: str, other: str, status: Document) -> Check | None:
    """Return whether a node reached the other when it last tried; None if no call was made yet."""
    there = next((one for one in status["nodes"] if one["node"] == other), None)
    what = f"node {node} reaches node {other}"
    if there is None:
        return Check(what, "NO", f"it does not know how: there is no MeshNode {other}", "edgemesh mesh list")
    if there["reachable"] is None:
        return None
    if there["reachable"]:
        return Check(what, "yes", ", ".join(there["addresses"]))
    why = ": ".join(filter(None, (there["flag"], there["error"])))
    return Check(
        what, "NO", why, f"let it dial {', '.join(there['addresses'])}, TCP port 15008 (NodeConfig ports.tunnel)"
    )


async def _policy(api: ApiServer, source: Found, destination: Found, arguments: Namespace) -> list[Check]:
    """Check what the objects of the API server say."""
    what = "the cluster's policy admits the call"
    if not source.enrolment.enrolled:
        return [Check(what, "NO", "a caller outside the mesh has no identity that policy could admit")]
    try:
        snapshot = await pods.snapshot_of(api, (source, destination))
    except ApiError as error:
        return [Check(what, "unknown", *cluster.refusal(error))]
    found = pods.explain(snapshot, source, destination, _question(arguments))
    return [_verdict(f"{what}, port {one['port']}", one) for one in found]


async def _decided(
    api: ApiServer, namespace: str, node: str, source: Found, destination: Found, arguments: Namespace
) -> Check:
    """Check what a node decides now: it may not have the newest objects."""
    what = f"node {node} lets the call pass"
    asked = _question(arguments, arguments.port or next(iter(pods.ports(destination)), pods.ANY_PORT))
    words = query(Question(str(source.name), f"workload:{destination.name}", asked.port, asked.method, asked.path))
    document, failed = await _asked(api, namespace, node, "/explain", words)
    if failed is not None:
        failed.what = what
        return failed
    return _verdict(f"{what}, port {document['port']}", document)


def _question(arguments: Namespace, port: int = 0) -> Question:
    return Question("", "", port or arguments.port, arguments.method.upper(), arguments.path)


def _verdict(what: str, document: Document) -> Check:
    if document["allowed"]:
        requests = f": {'; '.join(document['requests'])}" if document["requests"] else ""
        return Check(what, "yes", f"by {document['rule']}{requests}")
    why = ": ".join(filter(None, (document["reason"], document["meaning"])))
    do = f"nearest is {document['nearest']}, which lacks: {document['missing']}" if document["nearest"] else ""
    return Check(what, "NO", why, do or f"if the call should pass, write a rule: {document['missing'] or why}")


def shown(document: Document) -> Iterable[Any]:
    """Yield `edgemesh verify connectivity`."""
    from rich.text import Text

    from agent.commands.tables import Rows

    rows = Rows("needed", "", "why", prose=True)
    styles = {"yes": "green", "NO": "bold red", "unknown": "yellow"}
    for check in document["checks"]:
        words = "\n".join(filter(None, (check["detail"], check["do"] and f"do: {check['do']}")))
        rows.add(check["what"], Text(check["result"], style=styles[check["result"]]), words)
    yield rows
    bad = [check for check in document["checks"] if check["result"] != "yes"]
    yield ""
    if bad:
        yield Text(f"{len(bad)} of {len(document['checks'])} checks are not as they should be", style="bold red")
    else:
        yield Text(f"{document['from']} can call {document['to']}, as far as edgemesh is concerned", style="green")


_VERIFY: Callable[[Namespace], int] = cluster.asking(verify)
