"""The daemons of a cluster's nodes, asked through the API server (`pods/proxy`): --all-nodes, --node NAME.

For each node a token is made that is good for this node alone, for ten minutes (agent/admin/viewers.py says why).
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import trio
from msgspec import Struct

from agent.admin.viewers import ACCOUNT, FIELD, audience
from agent.commands import NO, UNREACHABLE, asking, cluster, nodes_shown, terminal
from agent.commands.asking import View
from agent.commands.cluster import Mistake
from agent.config.schema import KubernetesConfig
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from policy.near import nearest

Document = Any

_AT_ONCE = 16  # nodes that are asked at once
_PATIENCE = 20.0  # seconds for one node
_LIFE = 600  # seconds of a token: the shortest that an API server makes
_MOST = 64 * 1024 * 1024  # bytes of one node's answer


class Answer(Struct):
    """What one node answered: `document`, or `error` with a `hint` why it did not.

    `status`: HTTP status of a refusal by the daemon; 0: it did not answer.
    """

    node: str
    pod: str = ""
    document: Document = None
    error: str = ""
    hint: str = ""
    status: int = 0

    def json(self) -> dict[str, Any]:
        return {"node": self.node, "pod": self.pod, "error": self.error, "hint": self.hint, "document": self.document}


def tell(arguments: Namespace, view: View) -> int:
    """Ask the nodes that the options name, and print what they answer. Return the exit code."""

    async def told(arguments: Namespace, api: ApiServer) -> int:
        node = "" if arguments.all_nodes else arguments.node
        answers = await ask(api, cluster.mesh_namespace(arguments), view.path, view.query, node)
        if node:
            return _tell_one(arguments, view, answers[0])
        if arguments.output == "json":
            terminal.print_json([answer.json() for answer in answers])
        else:
            console = terminal.console()
            for renderable in getattr(nodes_shown, view.all)(answers):
                console.print(renderable)
        answered = [answer for answer in answers if not answer.error]
        if not answered:
            return NO if any(answer.status for answer in answers) else UNREACHABLE
        worst = max(view.code(answer.document) for answer in answered)
        return worst if len(answered) == len(answers) else max(worst, NO)

    return cluster.asking(told)(arguments)


def _tell_one(arguments: Namespace, view: View, answer: Answer) -> int:
    """Print what a daemon on this node would print."""
    if answer.error:
        terminal.complain(f"node {answer.node}: {answer.error}", answer.hint)
        return NO if answer.status else UNREACHABLE
    asking.show(arguments, answer.document, view.one)
    return view.code(answer.document)


async def ask(
    api: ApiServer, namespace: str, path: str, query: Sequence[tuple[str, str]] = (), node: str = ""
) -> list[Answer]:
    """Return what the daemon of each node answers, or of `node` alone.

    Raise Mistake, ApiError or ApiUnreachable where nobody can be asked.
    """
    pods = {str((pod.get("spec") or {}).get("nodeName", "")): pod for pod in await cluster.daemons(api, namespace)}
    pods.pop("", None)  # not yet on a node
    names = await _nodes(api) if not node else []
    if not pods:
        raise Mistake(
            f"no daemon of edgemesh runs in namespace {namespace}",
            "edgemesh mesh list shows where one does, --mesh-namespace NS names another; edgemesh install brings it",
        )
    if node and node not in pods:
        near = nearest(node, pods, 0.5)
        known = f"there is {', '.join(sorted(pods)[:8])}{' ...' if len(pods) > 8 else ''}"
        raise Mistake(
            f"no daemon of edgemesh runs on a node {node!r}", f"did you mean {near}? {known}" if near else known
        )
    ports = await _ports(api)
    wanted = [node] if node else sorted({*names, *pods})
    answers = {name: Answer(name) for name in wanted}
    turns = trio.CapacityLimiter(_AT_ONCE)
    refused: list[ApiError | ApiUnreachable | Mistake] = []

    async def one(name: str) -> None:
        async with turns:
            pod = pods.get(name)
            if pod is None:
                answers[name].error = cluster.why_not(None)
                return
            try:
                answers[name] = await _ask(api, namespace, name, pod, ports, path, query)
            except (ApiError, ApiUnreachable, Mistake) as error:
                refused.append(error)
                nursery.cancel_scope.cancel()  # no other node would answer either

    async with trio.open_nursery() as nursery:
        for name in wanted:
            nursery.start_soon(one, name)
    if refused:
        raise refused[0]
    return [answers[name] for name in wanted]


async def _ask(
    api: ApiServer,
    namespace: str,
    node: str,
    pod: Document,
    ports: Callable[[str], int],
    path: str,
    query: Sequence[tuple[str, str]],
) -> Answer:
    """Ask one daemon. Raise ApiError when we may not ask any, ApiUnreachable when the API server is gone."""
    name = pod["metadata"]["name"]
    token = await _token(api, namespace, node)
    target = path_of("v1", "pods", namespace, f"https:{name}:{ports(node)}", "proxy") + path
    try:
        with trio.fail_after(_PATIENCE):
            response = await api.request("GET", target, query, most=_MOST, fields={FIELD: token})
        return Answer(node, name, json.loads(response.body))
    except trio.TooSlowError:
        return Answer(node, name, error=f"no answer within {_PATIENCE:.0f} s", hint=_look(namespace, name))
    except ValueError:
        return Answer(node, name, error="an answer that makes no sense", hint=_look(namespace, name))
    except ApiError as error:
        said = _said(error.body)
        if said is not None:  # the daemon itself refuses
            return Answer(node, name, error=said[0], hint=said[1], status=error.status)
        if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            raise
        why = cluster.why_not(pod) if error.status == HTTPStatus.NOT_FOUND else error.message
        why = why.removeprefix("error trying to reach service: ")
        return Answer(node, name, error=f"its daemon does not answer: {why}", hint=_look(namespace, name))


def _look(namespace: str, pod: str) -> str:
    return f"kubectl logs --namespace {namespace} {pod} tells more"


def _said(body: bytes) -> tuple[str, str] | None:
    """Return the error and hint of a daemon's refusal; None when it is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("error"), str):
        return None
    return found["error"], str(found.get("hint", ""))


async def _token(api: ApiServer, namespace: str, node: str) -> str:
    """Return a token for one node's pages. Raise Mistake, ApiError."""
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience(node)], "expirationSeconds": _LIFE},
    }
    path = path_of("v1", "serviceaccounts", namespace, ACCOUNT, "token")
    try:
        made = await api.create(path, asked)
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        raise Mistake(
            f"namespace {namespace} has no ServiceAccount {ACCOUNT}, for which readers' tokens are made",
            "edgemesh install brings it",
        ) from error
    return str((made.get("status") or {}).get("token", ""))


async def _nodes(api: ApiServer) -> list[str]:
    """Return the names of the cluster's nodes; none when they may not be listed."""
    try:
        return [item["metadata"]["name"] for item in await api.list(path_of("v1", "nodes"))]
    except ApiError:
        return []


async def _ports(api: ApiServer) -> Callable[[str], int]:
    """Return where each node's door is, as its NodeConfig says; that of `default` counts for the others."""
    try:
        found = await api.list(path_of("edgemesh.io/v1alpha1", "nodeconfigs"))
    except ApiError:
        found = []
    doors: Mapping[str, int] = {
        item["metadata"]["name"]: door
        for item in found
        if isinstance(door := ((item.get("spec") or {}).get("kubernetes") or {}).get("door"), int)
    }
    return lambda node: doors.get(node, doors.get("default", KubernetesConfig().door))
