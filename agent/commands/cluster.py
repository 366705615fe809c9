"""What commands that ask a cluster share: their options, its API server, and what is said when it refuses."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from http import HTTPStatus
from typing import Any

import trio

from agent.admin.viewers import ACCOUNT
from agent.commands import NO, UNREACHABLE, terminal
from agent.config.settings import environment
from agent.kubernetes.access import Access, AccessError, NoAccess, chosen
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from agent.kubernetes.pace import Pace
from policy.near import nearest

Document = dict[str, Any]
Run = Callable[[Namespace, ApiServer], Awaitable[int]]

SYSTEM = "edgemesh-system"
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
OURS = f"{NAME}=edgemesh"
_RATE, _BURST = 50.0, 200  # requests a second, and at once: a person waits for all nodes
_SHOWN = 8  # names that a message lists


class Mistake(Exception):  # noqa: N818 - it is an answer for people
    """What was asked for cannot be; the message says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def asking(run: Run) -> Callable[[Namespace], int]:
    """Return `run` with the API server that the options name, and with failures as messages and exit codes.

    3 when the API server did not answer, or there is no access to it; 1 when it refused.
    """

    @wraps(run)
    def said(arguments: Namespace) -> int:
        async def whole() -> int:
            api = server(arguments)
            try:
                return await run(arguments, api)
            finally:
                await api.aclose()

        try:
            return trio.run(whole)
        except Mistake as mistake:
            terminal.complain(str(mistake), mistake.hint)
            return NO
        except AccessError as error:
            terminal.complain(error.message, error.hint)
            return UNREACHABLE
        except ApiUnreachable as error:
            terminal.complain(
                str(error), f"this address is of {access(arguments).where}; --kubeconfig FILE names another"
            )
            return UNREACHABLE
        except ApiError as error:
            terminal.complain(*refusal(error))
            return NO

    return said


def server(arguments: Namespace) -> ApiServer:
    """Return the API server that the options name. Raise AccessError."""
    return ApiServer(access(arguments), Pace(_RATE, _BURST))


def access(arguments: Namespace) -> Access:
    """Return the access that the options name. Raise AccessError."""
    return chosen(arguments.kubeconfig, environment(), arguments.context)


def is_accessible() -> bool:
    """Return whether something names a cluster here; it may be out of order."""
    try:
        chosen("", environment())
    except NoAccess:
        return False
    except AccessError:
        return True
    return True


def mesh_namespace(arguments: Namespace) -> str:
    return arguments.mesh_namespace or environment().namespace or SYSTEM


@contextmanager
def complaining(name: str) -> Iterator[None]:
    """Say what could not be done to `name`, and go on after the block."""
    try:
        yield
    except Mistake as mistake:
        terminal.complain(f"{name}: {mistake}", mistake.hint)
    except ApiError as error:
        message, hint = refusal(error)
        terminal.complain(f"{name}: {message}", hint)


def refusal(error: ApiError) -> tuple[str, str]:
    """Return what the API server refused, and what to do about it."""
    if error.status == HTTPStatus.FORBIDDEN:
        user = re.search(r'User "([^"]*)"', error.message)
        right = re.search(
            r'cannot (\S+) resource "([^"]*)" in API group "([^"]*)"(?: (?:in the namespace "([^"]*)"|at the cluster scope))?',
            error.message,
        )
        who = user[1] if user else "this account"
        if right is None:
            return f"{who} may not do this: {error.message}", "a cluster administrator can, or can give the right"
        verb, resource, group, namespace = right.groups()
        if resource == "namespaces" and namespace:  # the API server says it as if a Namespace were in itself
            what, where, asked, namespace = "namespace", namespace, f"namespaces/{namespace}", ""
        else:
            what = f"{resource}.{group}" if group else resource
            where = f"in namespace {namespace}" if namespace else "in the whole cluster"
            asked, slash, part = what.partition("/")
            asked += f" --subresource {part}" if slash else ""
        if resource == "serviceaccounts/token" and namespace:  # what asking a daemon takes
            named = who.removeprefix("system:serviceaccount:")
            subject = f"--user {who}" if named == who else f"--serviceaccount {named}"
            role = f"kubectl create rolebinding views-the-mesh --namespace {namespace} --role {ACCOUNT} {subject}"
            return f"{who} may not {verb} {what} {where}", f"an administrator gives that right by {role}"
        check = f"kubectl auth can-i {verb} {asked}{f' --namespace {namespace}' if namespace else ''}"
        return (
            f"{who} may not {verb} {what} {where}",
            f"an administrator gives that right by a {'Role' if namespace else 'ClusterRole'} and its binding; {check} tells whether it is there",
        )
    if error.status == HTTPStatus.UNAUTHORIZED:
        return (
            "the API server does not know who asks: the token or certificate is not, or no longer, good",
            "get another kubeconfig; tokens end by themselves",
        )
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"the API server has too much to do: {error.message}", "try again in a moment"
    return f"the API server refused: {error.message}", ""


async def namespaced(api: ApiServer, name: str) -> Document:
    """Return a Namespace. Raise Mistake, which says what was probably meant."""
    try:
        found: Document = await api.get(path_of("v1", "namespaces", name=name))
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        raise await unknown(api, "namespace", name, path_of("v1", "namespaces")) from error
    return found


async def unknown(api: ApiServer, kind: str, name: str, path: str, where: str = "") -> Mistake:
    """Return the Mistake for an object that is not there: with what is, as far as one may look."""
    try:
        there = sorted(item["metadata"]["name"] for item in await api.list(path))
    except ApiError:
        return Mistake(f"there is no {kind} {name!r}{where}")
    near = nearest(name, there, 0.5)
    known = f"there is {', '.join(there[:_SHOWN])}{' ...' if len(there) > _SHOWN else ''}" if there else "there is none"
    return Mistake(f"there is no {kind} {name!r}{where}", f"did you mean {near}? {known}" if near else known)


def meta(found: Mapping[str, Any], part: str) -> Mapping[str, str]:
    """Return the labels or annotations of an object."""
    return (found.get("metadata") or {}).get(part) or {}


async def daemons(api: ApiServer, namespace: str) -> Sequence[Document]:
    """Return the pods of edgemesh's daemons."""
    return await api.list(path_of("v1", "pods", namespace), {"labelSelector": OURS})


def is_ready(pod: Document) -> bool:
    """Return whether a pod's Ready condition is True."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def restarts(pod: Document) -> int:
    return sum(one.get("restartCount", 0) for one in (pod.get("status") or {}).get("containerStatuses") or ())


def why_not(pod: Document | None) -> str:
    """Return why a daemon is not ready, as the kubelet says it."""
    if pod is None:
        return "no pod of edgemesh runs there: its DaemonSet selects other nodes, or does not tolerate this one"
    status = pod.get("status") or {}
    for one in status.get("containerStatuses") or ():
        state = one.get("state") or {}
        for what in ("waiting", "terminated"):
            if reason := (state.get(what) or {}).get("reason"):
                return f"{reason}: {state[what].get('message', '')}".rstrip(": ")
        if "running" in state and not one.get("ready"):
            name, namespace = pod["metadata"]["name"], pod["metadata"].get("namespace", SYSTEM)
            return f"it runs and is not ready: kubectl logs --namespace {namespace} {name} tells more"
    said: list[Document] = [one for one in status.get("conditions") or () if one.get("type") == "Ready"]
    return (
        next((one["message"] for one in said if one.get("message")), "")
        or f"it is {status.get('phase', 'not started')}, and not ready"
    )
