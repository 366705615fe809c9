"""uninstall: take edgemesh out of a Kubernetes cluster, its nodes' rules included. The reverse of install.py."""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import trio

from agent.commands import NO, OK, USAGE, options, terminal
from agent.commands.cluster import COMPONENT, Mistake, asking, meta
from agent.commands.install import documents
from agent.install import addon, rollout
from agent.kubernetes.api import ApiError, ApiServer, path_of
from agent.store.problems import count

Document = dict[str, Any]

_LOOK = 1.0  # seconds between two looks
_GRACE = 45  # seconds that a daemon has to end
_SETS = path_of("apps/v1", "daemonsets", addon.NAMESPACE)
_PODS = path_of("v1", "pods", addon.NAMESPACE)
_MESH_NODES = path_of("edgemesh.io/v1alpha1", "meshnodes")
_REQUESTS = path_of("certificates.k8s.io/v1", "certificatesigningrequests")
_SIGNER = {"fieldSelector": "spec.signerName=edgemesh.io/workload"}
_KINDS = "CustomResourceDefinition"


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "uninstall", "mesh")
    summary = "stop the daemons, take every rule off the nodes, and delete what install made"
    made = verbs("mesh", summary)
    options.access(made)
    made.add_argument(
        "-f", "--force", action="store_true", help="do not ask, and go on without nodes that do not answer"
    )
    everything = "the definitions of kinds too, and with them all policy of edgemesh's, OSM's and SMI's kinds"
    made.add_argument("-a", "--delete-cluster-wide-resources", dest="everything", action="store_true", help=everything)
    wait = "seconds for all nodes to be clean (default: 300)"
    made.add_argument("--timeout", metavar="SECONDS", type=options.seconds, default=300.0, help=wait)


def run(arguments: Namespace) -> int:
    """Return 1 when it was not confirmed, or a node is not clean in time."""
    if arguments.verb is None:
        terminal.complain(
            "uninstall needs to know what", "edgemesh uninstall mesh; edgemesh uninstall --help says more"
        )
        return USAGE
    return _UNINSTALL(arguments)


async def uninstalled(arguments: Namespace, api: ApiServer) -> int:
    """Remove everything. Return the exit code. Raise Mistake, ApiError, ApiUnreachable."""
    sets = {one["metadata"]["name"]: one for one in await api.list(_SETS)}
    if not arguments.force and not _confirmed(arguments, api):
        return NO
    daemon = sets.get(addon.AGENT) or sets.get(addon.SERVER)
    if daemon is not None or rollout.CLEANER in sets:
        with trio.move_on_after(arguments.timeout) as patience:
            await _cleaned(api, sets, daemon)
        if patience.cancelled_caught and not await _go_on(arguments, api):
            return NO
    else:
        # `kubectl delete -f` takes the DaemonSets too: which image could clean the nodes is known no more.
        terminal.complain(
            "no node was looked at: the cluster has no DaemonSet of edgemesh",
            "if it was deleted by other means, pods of the mesh stay closed: edgemesh install, then uninstall, opens them",
        )
    await rollout.remove(api, f"{_SETS}/{rollout.CLEANER}", foreground=True)
    await _remove(arguments, api)
    return OK


def _confirmed(arguments: Namespace, api: ApiServer) -> bool:
    what = "and all policy of its kinds " if arguments.everything else ""
    question = f"take edgemesh {what}out of the cluster {api.access.place}? Pods are open to everybody then. [y/N] "
    if not sys.stdin.isatty():
        raise Mistake("there is nobody to ask", "--force does it without a question")
    return input(question).strip().lower() in ("y", "yes")


async def _cleaned(api: ApiServer, sets: Mapping[str, Document], daemon: Document | None) -> None:
    """Stop the daemons, and have each node cleaned. It goes on where an earlier uninstall was interrupted."""
    if daemon is not None:
        # It has the daemons' image and folders, so it is made before they go. A daemon that runs would only write the
        # rules again, so it runs nowhere until they are gone.
        await rollout.apply(api, rollout.cleaner(daemon, held=True))
        for name in (addon.AGENT, addon.SERVER):
            await rollout.remove(api, f"{_SETS}/{name}", foreground=True)
        print("the daemons stop", flush=True)
        # One that handed over lately may have calls that last; they end now.
        for pod in await _daemons(api):
            with contextlib.suppress(ApiError):  # it is gone
                await api.delete(f"{_PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": _GRACE})
    while await _daemons(api):  # noqa: ASYNC110 - it is another machine's
        await trio.sleep(_LOOK)
    await api.patch(f"{_SETS}/{rollout.CLEANER}", {"spec": {"template": {"spec": {"nodeSelector": None}}}})
    await _clean(api)


async def _daemons(api: ApiServer) -> list[Document]:
    pods = await api.list(_PODS, rollout.PODS)
    return [pod for pod in pods if meta(pod, "labels").get(COMPONENT) in ("server", "agent")]


async def _clean(api: ApiServer) -> None:
    """Wait until every node is clean, and say how far it is."""
    said = ""
    while True:
        state = rollout.progress([await api.get(f"{_SETS}/{rollout.CLEANER}")])
        if state.done:
            print(f"no rule of edgemesh is left on {state.wanted} node{'' if state.wanted == 1 else 's'}")
            return
        now = f"{state.ready} of {state.wanted} nodes are clean"
        if state.known and now != said:
            print(now, flush=True)
            said = now
        await trio.sleep(_LOOK)


async def _go_on(arguments: Namespace, api: ApiServer) -> bool:
    """Say which nodes are not clean. Return whether to go on without them."""
    pods = await api.list(_PODS, rollout.PODS)
    for fault in rollout.faults(pods):
        terminal.complain(f"{fault.node}: not clean: {fault.message}", fault.hint)
    if arguments.force:
        terminal.complain("pods of those nodes stay closed", "edgemesh cleanup, on such a node, opens them")
        return True
    terminal.complain(
        "nothing more was deleted: the nodes that do not answer are cleaned when they do",
        "edgemesh uninstall mesh again, later; --force goes on without them",
    )
    return False


async def _remove(arguments: Namespace, api: ApiServer) -> None:
    values = addon.settings({"flowControl": str(await rollout.has_flow_control(api)).lower()})
    everything = documents(values)
    for request in await api.list(_REQUESTS, _SIGNER):
        await rollout.remove(api, f"{_REQUESTS}/{request['metadata']['name']}")
    for node in await _mesh_nodes(api):
        await rollout.remove(api, f"{_MESH_NODES}/{node['metadata']['name']}")
    removed, namespace = 0, rollout.path(everything[0])
    had_namespace = await _is_there(api, namespace)
    deadline = trio.current_time() + arguments.timeout
    for one in reversed(everything):
        if one["kind"] != _KINDS or arguments.everything:
            removed += await rollout.remove(api, rollout.path(one))
    while trio.current_time() < deadline and await _is_there(api, namespace):  # noqa: ASYNC110
        await trio.sleep(_LOOK)  # what is in the namespace goes first
    kinds = 0
    if not arguments.everything:
        kinds = sum([await _is_there(api, rollout.path(one)) for one in everything if one["kind"] == _KINDS])
    if removed:
        key = f"; with the namespace {addon.NAMESPACE} went the authority's key" if had_namespace else ""
        print(f"removed {count(removed, 'object')}{key}")
    else:
        print(f"nothing{' else' if kinds else ''} of edgemesh is in the cluster")
    if kinds:
        print(
            f"{count(kinds, 'definition')} of kinds stay{'s' if kinds == 1 else ''}, and the policy that you wrote (-a deletes them too)"
        )
    if not removed:
        return
    print(
        "the image stays on the nodes; on a k3s server take edgemesh.yaml out of server/manifests, or it may come back"
    )


async def _is_there(api: ApiServer, where: str) -> bool:
    try:
        await api.get(where)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


async def _mesh_nodes(api: ApiServer) -> list[Document]:
    try:
        return await api.list(_MESH_NODES)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return []
        raise


_UNINSTALL = asking(uninstalled)
