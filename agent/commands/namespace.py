"""namespace: which namespaces of a cluster are in the mesh."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from agent.commands import NO, OK, USAGE, asking, cluster, options, terminal
from agent.commands.cluster import Mistake
from agent.kubernetes.api import ApiServer, path_of
from policy.enrolment import IGNORE, INJECTION, MESH, MONITORED, NEVER, Marks, enrols, of_pod

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")  # of a label's value


def arguments(parser: ArgumentParser) -> None:
    def verb(name: str, summary: str, names: bool = True) -> ArgumentParser:
        made = verbs(name, summary)
        if names:
            made.add_argument("namespaces", metavar="NS", nargs="+", help="a namespace")
        options.cluster(made)
        options.output(made)
        return made

    def mesh(made: ArgumentParser, said: str) -> None:
        made.add_argument("--mesh-name", metavar="NAME", default="edgemesh", help=f"{said} (default: edgemesh)")

    verbs = options.verbs(parser, "namespace")
    add = verb("add", "bring the pods of namespaces into the mesh, also those that run: none is restarted")
    mesh(add, "what the label openservicemesh.io/monitored-by says; any value counts")
    disable = "leave out pods that do not say openservicemesh.io/sidecar-injection: enabled themselves"
    add.add_argument("--disable-sidecar-injection", action="store_true", help=disable)
    mesh(verb("remove", "take the pods of namespaces out of the mesh"), "remove them only from the mesh of this name")
    verb("ignore", "never let the pods of namespaces into the mesh, whatever else they say")
    verb("list", "show the namespaces that are in the mesh, or ignored", names=False)


def run(arguments: Namespace) -> int:
    """Return 1 when something was not done; what else was asked for was."""
    if arguments.verb is None:
        terminal.complain("namespace needs a verb", "add, remove, ignore or list; edgemesh namespace --help says more")
        return USAGE
    return _LIST(arguments) if arguments.verb == "list" else _CHANGE(arguments)


async def change(arguments: Namespace, api: ApiServer) -> int:
    """Change the namespaces one after another; a failure keeps no other from being changed."""
    verbs: Mapping[str, Callable[..., Awaitable[str]]] = {"add": add, "remove": remove, "ignore": ignore}
    names, done = dict.fromkeys(arguments.namespaces), {}
    for name in names:
        with cluster.complaining(name):
            done[name] = await verbs[arguments.verb](arguments, api, name)
            if arguments.output != "json":
                print(f"{name}: {done[name]}")
    if arguments.output == "json":
        terminal.print_json({name: {"done": words} for name, words in done.items()})
    return OK if len(done) == len(names) else NO


async def add(arguments: Namespace, api: ApiServer, name: str) -> str:
    if not _NAME.fullmatch(arguments.mesh_name):
        raise Mistake(
            f"{arguments.mesh_name!r} is no value of a label", "letters, digits, '-', '_' and '.', at most 63"
        )
    _may_be_in(arguments, name)
    found = await cluster.namespaced(api, name)
    if _is_ignored(name, found):
        raise Mistake("it is ignored, so its pods stay out", f"kubectl label namespace {name} {IGNORE}-")
    before = cluster.meta(found, "labels").get(MONITORED)
    disabled = arguments.disable_sidecar_injection
    labels: dict[str, str | None] = {MONITORED: arguments.mesh_name}
    monitored = Marks({**cluster.meta(found, "labels"), MONITORED: ""})
    if not of_pod(name, monitored, Marks()).enrolled:
        labels[MESH] = None  # it says disabled
    await _write(api, name, labels, {INJECTION: "disabled" if disabled else "enabled"})
    renamed = f" (it was of mesh {before})" if before not in (None, arguments.mesh_name) else ""
    if disabled:
        return f"in mesh {arguments.mesh_name}{renamed}, and of its pods those that say {INJECTION}: enabled"
    return (
        f"in mesh {arguments.mesh_name}{renamed}, with all of its pods; a pod that says {INJECTION}: disabled stays out"
    )


async def remove(arguments: Namespace, api: ApiServer, name: str) -> str:
    found = await cluster.namespaced(api, name)
    labels = cluster.meta(found, "labels")
    mesh = labels.get(MONITORED)
    if mesh is None and not enrols(_marks(found)):
        raise Mistake("it is in no mesh", "edgemesh namespace list shows those that are")
    if mesh not in (None, arguments.mesh_name):
        raise Mistake(f"it is in mesh {mesh}, not {arguments.mesh_name}", f"say so: --mesh-name {mesh}")
    await _write(api, name, {MONITORED: None, MESH: None}, {INJECTION: None})
    return "out of the mesh: its pods are not captured any more, and everybody may call them"


async def ignore(arguments: Namespace, api: ApiServer, name: str) -> str:
    await cluster.namespaced(api, name)
    await _write(api, name, {IGNORE: "true"}, {})
    return "ignored: none of its pods is in the mesh"


async def listed(arguments: Namespace, api: ApiServer) -> int:
    """Print the namespaces that are in the mesh, or ignored."""
    found = [one for item in await api.list(path_of("v1", "namespaces")) if (one := row(item))]
    asking.show(arguments, sorted(found, key=lambda one: str(one["namespace"])), shown)
    return OK


def row(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a Namespace says of the mesh; None for nothing. `pods`: which of its pods are in the mesh."""
    marks, name = _marks(found), found["metadata"]["name"]
    if not enrols(marks) and IGNORE not in marks.labels:
        return None
    left = of_pod(name, marks, Marks())
    asked = of_pod(name, marks, Marks(annotations={INJECTION: "enabled"}))
    pods = "all but those that opt out" if left.enrolled else "those that ask for it" if asked.enrolled else "none"
    return {
        "namespace": name,
        "mesh": marks.labels.get(MONITORED) or ("edgemesh" if enrols(marks) else ""),
        "pods": pods,
        "why": left.why,
    }


def shown(found: list[dict[str, Any]]) -> Iterable[Any]:
    """Yield `edgemesh namespace list`."""
    from rich.text import Text

    from agent.commands.tables import Rows

    rows = Rows(
        "namespace",
        "mesh",
        "pods in the mesh",
        prose=True,
        empty="no namespace is in the mesh: edgemesh namespace add NS",
    )
    for one in found:
        pods = f"{one['pods']}: {one['why']}" if one["why"] else one["pods"]
        rows.add(Text(one["namespace"], style="bold"), one["mesh"], pods)
    yield rows


def _may_be_in(arguments: Namespace, name: str) -> None:
    if name in (*NEVER, cluster.mesh_namespace(arguments)):
        raise Mistake("it is never in the mesh", "what runs there must work before the mesh does")


def _marks(found: Mapping[str, Any]) -> Marks:
    return Marks(cluster.meta(found, "labels"), cluster.meta(found, "annotations"))


def _is_ignored(name: str, found: Mapping[str, Any]) -> bool:
    word = cluster.meta(found, "labels").get(IGNORE)
    return word is not None and not of_pod(name, Marks({IGNORE: word, MONITORED: ""}), Marks()).enrolled


async def _write(
    api: ApiServer, name: str, labels: Mapping[str, str | None], annotations: Mapping[str, str | None]
) -> None:
    changed = {"metadata": {"labels": labels, **({"annotations": annotations} if annotations else {})}}
    await api.patch(path_of("v1", "namespaces", name=name), changed)


_CHANGE = cluster.asking(change)
_LIST = cluster.asking(listed)
