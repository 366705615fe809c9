"""mesh: which meshes a cluster has, in which versions, and their daemons on its nodes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agent.commands import NO, OK, USAGE, asking, cluster, options, terminal
from agent.commands.namespace import row
from agent.kubernetes.api import ApiError, ApiServer, path_of

Document = dict[str, Any]

_NAMED = 5  # nodes in one line
_MESH_NODES = path_of("edgemesh.io/v1alpha1", "meshnodes")


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "mesh")
    summary = "show the meshes of the cluster, their versions, and the daemon of each node"
    made = verbs("list", summary)
    options.access(made)
    options.output(made)


def run(arguments: Namespace) -> int:
    """Return 1 when there is no mesh, or a node is without a daemon that is ready."""
    if arguments.verb is None:
        terminal.complain("mesh needs a verb", "list; edgemesh mesh --help says more")
        return USAGE
    return _LIST(arguments)


async def listed(arguments: Namespace, api: ApiServer) -> int:
    """Print what there is. Return 1 when something is missing."""
    document = await look(api)
    asking.show(arguments, document, shown)
    meshes, nodes = document["meshes"], document["nodes"]
    return OK if meshes and all(node["ready"] for node in nodes) else NO


async def look(api: ApiServer) -> Document:
    """Return the meshes with their DaemonSets, and every node with its daemon. Raise ApiError, ApiUnreachable.

    Where Nodes, MeshNodes or Namespaces may not be listed, `missing` says so, and the rest is told.
    """
    missing: list[str] = []

    async def perhaps(path: str, query: Mapping[str, str] | None = None) -> list[Document]:
        try:
            return await api.list(path, query)
        except ApiError as error:
            if error.status != 404:  # a kind that is not installed has no objects
                missing.append(cluster.refusal(error)[0])
            return []

    sets = await api.list(path_of("apps/v1", "daemonsets"), {"labelSelector": cluster.OURS})
    pods = await api.list(path_of("v1", "pods"), {"labelSelector": cluster.OURS})
    nodes = await perhaps(path_of("v1", "nodes"))
    mesh_nodes = {item["metadata"]["name"]: item.get("spec") or {} for item in await perhaps(_MESH_NODES)}
    namespaces = await perhaps(path_of("v1", "namespaces"))
    enrolled = [one for item in namespaces if (one := row(item)) and one["pods"] != "none"]
    meshes = [
        {
            "mesh": "edgemesh",
            "namespace": namespace,
            "versions": sorted({_version(one) for one in sets if _namespace(one) == namespace}),
            "daemons": [_daemons(one) for one in sets if _namespace(one) == namespace],
            "namespaces": sorted(str(one["namespace"]) for one in enrolled),
        }
        for namespace in sorted({_namespace(one) for one in sets})
    ]
    by_node = {str((pod.get("spec") or {}).get("nodeName", "")): pod for pod in pods}
    names = sorted({*(item["metadata"]["name"] for item in nodes), *by_node} - {""})
    return {
        "meshes": meshes,
        "nodes": [_node(name, by_node.get(name), mesh_nodes.get(name)) for name in names],
        "missing": missing,
    }


def _namespace(found: Document) -> str:
    return str(found["metadata"].get("namespace", ""))


def _version(found: Document) -> str:
    """Return the version of a DaemonSet's or pod's image: its tag."""
    spec = found.get("spec") or {}
    containers = ((spec.get("template") or {}).get("spec") or spec).get("containers") or [{}]
    image = str(containers[0].get("image", ""))
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2] or "?"


def _daemons(found: Document) -> Document:
    status = found.get("status") or {}
    return {
        "name": found["metadata"]["name"],
        "component": cluster.meta(found, "labels").get(cluster.COMPONENT, ""),
        "version": _version(found),
        "desired": status.get("desiredNumberScheduled", 0),
        "ready": status.get("numberReady", 0),
        "updated": status.get("updatedNumberScheduled", 0),
    }


def _node(name: str, pod: Document | None, mesh_node: Document | None) -> Document:
    spec = mesh_node or {}
    workloads = spec.get("workloads") or ()
    return {
        "node": name,
        "component": cluster.meta(pod, "labels").get(cluster.COMPONENT, "") if pod else "",
        "pod": pod["metadata"]["name"] if pod else "",
        "version": _version(pod) if pod else "",
        "ready": pod is not None and cluster.is_ready(pod),
        "restarts": cluster.restarts(pod) if pod else 0,
        "why": "" if pod is not None and cluster.is_ready(pod) else cluster.why_not(pod),
        "addresses": list(spec.get("addresses") or ()),
        "workloads": sum(1 for one in workloads if one.get("enrolled")) if mesh_node is not None else None,
    }


def shown(document: Document) -> Iterable[Any]:
    """Yield `edgemesh mesh list`."""
    from rich.text import Text

    from agent.commands.tables import Rows

    if not document["meshes"]:
        yield "no mesh is installed in this cluster: edgemesh install"
    meshes = Rows("mesh", "namespace", "versions", "daemons ready", "namespaces in the mesh", prose=True)
    for one in document["meshes"]:
        counts: Counter[str] = Counter()
        for daemons in one["daemons"]:
            counts += Counter({"ready": daemons["ready"], "desired": daemons["desired"]})
        all_ready = counts["ready"] == counts["desired"]
        meshes.add(
            Text(one["mesh"], style="bold"),
            one["namespace"],
            Text(", ".join(one["versions"]), style="yellow" if len(one["versions"]) > 1 else ""),
            Text(f"{counts['ready']} of {counts['desired']}", style="green" if all_ready else "bold red"),
            ", ".join(one["namespaces"]) or "none",
        )
    if meshes:
        yield meshes
        yield ""
    if document["nodes"] and document["meshes"]:
        yield from _nodes(document["nodes"])
    for words in document["missing"]:
        yield Text(f"not shown: {words}", style="yellow")


def _nodes(found: Sequence[Document]) -> Iterable[Any]:
    """Yield the nodes, then why some are not ready: in a cell of the table, that would be too wide for a terminal."""
    from rich.text import Text

    from agent.commands.tables import Rows

    rows = Rows("node", "daemon", "ready", "version", "restarts", "addresses", "workloads")
    for one in found:
        rows.add(
            Text(one["node"], style="bold"),
            one["component"],
            Text("yes", "green") if one["ready"] else Text("NO", "bold red"),
            one["version"],
            str(one["restarts"]) if one["pod"] else "",
            ", ".join(one["addresses"]),
            "" if one["workloads"] is None else str(one["workloads"]),
        )
    yield rows
    whys: dict[str, list[str]] = {}
    for one in found:
        if one["why"]:
            whys.setdefault(one["why"], []).append(one["node"])
    if whys:
        yield ""
    for why, names in whys.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield Text.assemble((f"{', '.join(names[:_NAMED])}{more}", "bold red"), f": {why}")


_LIST: Callable[[Namespace], int] = cluster.asking(listed)
