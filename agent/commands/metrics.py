"""metrics: mark namespaces whose metrics are wanted, as osm does, and say where metrics are."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from agent.commands import NO, OK, USAGE, cluster, options, terminal
from agent.kubernetes.api import ApiError, ApiServer, path_of

METRICS = "openservicemesh.io/metrics"  # annotation of a Namespace: enabled
_NODE_CONFIGS = path_of("edgemesh.io/v1alpha1", "nodeconfigs")


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "metrics")
    for name, summary in (
        ("enable", "mark namespaces whose metrics are wanted; edgemesh counts all of them, always"),
        ("disable", "take that mark away; edgemesh goes on counting"),
    ):
        made = verbs(name, summary)
        said = "namespaces, separated by commas; repeatable"
        made.add_argument("--namespace", metavar="NS", action="append", required=True, help=said)
        options.access(made)
        options.output(made)


def run(arguments: Namespace) -> int:
    """Return 1 when a namespace was not marked."""
    if arguments.verb is None:
        terminal.complain("metrics needs a verb", "enable or disable; edgemesh metrics --help says more")
        return USAGE
    return _CHANGE(arguments)


async def change(arguments: Namespace, api: ApiServer) -> int:
    """Change the annotation, and say what it means."""
    enable = arguments.verb == "enable"
    names = [name for words in arguments.namespace for name in words.split(",") if name]
    done = []
    for name in dict.fromkeys(names):
        with cluster.complaining(name):
            await cluster.namespaced(api, name)
            changed = {"metadata": {"annotations": {METRICS: "enabled" if enable else None}}}
            await api.patch(path_of("v1", "namespaces", name=name), changed)
            done.append(name)
    places = await _places(api) if enable else []
    if arguments.output == "json":
        terminal.print_json({"namespaces": done, "metrics": enable, "addresses": places})
    else:
        for name in done:
            print(f"{name}: {'marked' if enable else 'no longer marked'} with the annotation {METRICS}")
        if done:
            print(_meaning(enable, places))
    return OK if len(done) == len(set(names)) else NO


def _meaning(enable: bool, places: Sequence[str]) -> str:
    if not enable:
        return "edgemesh counts the calls of all workloads as before: the mark is for who scrapes"
    said = (
        "The mark is for who scrapes. edgemesh has no sidecars to scrape, so pods get no prometheus.io annotations: "
        "each node's daemon counts the calls of all its workloads, by namespace and name."
    )
    if places:
        return f"{said}\nIt serves them at {', '.join(places)} of each node, to who shows the bearer token."
    return f"{said}\nNo NodeConfig sets metricsAddress and metricsTokenFile, so no scraper can read them yet."


async def _places(api: ApiServer) -> list[str]:
    """Return where NodeConfigs have metrics served; [] also when they cannot be read."""
    try:
        found = await api.list(_NODE_CONFIGS)
    except ApiError:
        return []
    specs = [item.get("spec") or {} for item in found]
    return sorted(
        {str(spec["metricsAddress"]) for spec in specs if spec.get("metricsAddress") and spec.get("metricsTokenFile")}
    )


_CHANGE = cluster.asking(change)
