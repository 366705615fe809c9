"""Which endpoints serve a Service: those of its EndpointSlices, or the workloads that its selector selects.

The choice among them is that of kube-proxy: ready ones; where none is ready, those that still serve while they end.
`near` holds what callers of this node are restricted to, by internalTrafficPolicy or by the hints of the slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from policy.addresses import canonical, is_address
from policy.draft import Draft, Input
from policy.kinds.kubernetes import EndpointSlice, ServicePortSpec, ServiceSpec, SliceEndpoint, TargetRef
from policy.model import Endpoint, Host
from policy.resources import Resource
from policy.translate.containers import port_number
from policy.translate.workloads import Runner

ZONES = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")  # labels of a Node, the newest first


class Place(Struct, frozen=True):
    """Where this node is. `zone` "": no Node says."""

    node: str
    zone: str = ""


class Serving(Struct, frozen=True):
    """The endpoints of one port. `near` None: callers of this node may use all of them; `nearness`: why not."""

    endpoints: tuple[Endpoint, ...] = ()
    near: tuple[Endpoint, ...] | None = None
    nearness: str = ""


class _Found(Struct, frozen=True):
    endpoint: Endpoint
    ready: bool = True
    ending: bool = False  # it serves, and is about to end
    node: str = ""
    zones: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()


def place_of(resources: Input, draft: Draft) -> Place:
    node = resources.get("Node", draft.node)
    labels = node.labels if node is not None else {}
    return Place(draft.node, next((labels[name] for name in ZONES if labels.get(name)), ""))


class Finder:
    """Runners by label, address and key, so that a selector is compared with few of them."""

    def __init__(self, runners: Iterable[Runner]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Runner]] = {}
        self._by_address: dict[str, list[Runner]] = {}
        self.by_key: dict[str, Runner] = {}
        for runner in runners:
            self.by_key[runner.workload.key] = runner
            namespace = runner.workload.namespace
            for item in runner.labels.items():
                self._by_label.setdefault((namespace, *item), []).append(runner)
            for address in runner.workload.addresses:
                self._by_address.setdefault(address, []).append(runner)

    def selected(self, service: Resource[Any]) -> list[Runner]:
        """Return the workloads that a Service selects and that may be called."""
        spec: ServiceSpec = service.spec
        selector = spec.selector or {}
        if not selector:
            return []
        lists = [self._by_label.get((service.namespace, *item), []) for item in selector.items()]
        fewest = min(lists, key=len)
        wanted = selector.items()
        any_state = bool(spec.publish_not_ready_addresses)
        return [one for one in fewest if wanted <= one.labels.items() and (one.ready or any_state)]

    def endpoint(self, address: str, port: int, target: TargetRef | None) -> Endpoint:
        """Return what is at an address of a slice.

        `target`: what the slice says is there. It tells apart pods that share their node's address, and is believed
        only if that pod has this address. A pod that the mesh does not know (yet) is an unknown workload; an address
        that is nobody's, of which the slice says no pod, is outside the mesh.
        """
        pod = f"{target.namespace}/{target.name}" if target is not None and target.kind == "Pod" else ""
        named = self.by_key.get(pod)
        if named is not None and address in named.workload.addresses:
            return Endpoint(address, port, pod)
        found = self._by_address.get(address, [])
        if len(found) > 1:
            found = [r for r in found if port in r.workload.ports] or found
        if found and not (found[0].workload.host_network and port not in found[0].workload.ports):
            return Endpoint(address, port, found[0].workload.key)
        return Endpoint(address, port, "", outside=not pod)


def of_slices(
    slices: Iterable[Resource[Any]], spec: ServicePortSpec, finder: Finder, place: Place, local: bool
) -> Serving:
    """Return what the EndpointSlices of a Service say of one of its ports. `local`: internalTrafficPolicy Local."""
    found: dict[Endpoint, _Found] = {}
    for one in slices:
        said: EndpointSlice = one.spec
        # EndpointSlice ports have the names of Service ports.
        numbers = [p.port for p in said.ports or () if (p.name or "") == (spec.name or "") and p.port]
        for port in dict.fromkeys(numbers):
            for entry in said.endpoints or ():
                for address in entry.addresses[:1]:  # "the first one is used" (discovery/v1)
                    if not is_address(address):
                        continue
                    made = _found(finder.endpoint(canonical(address), port, entry.target_ref), entry, finder)
                    known = found.get(made.endpoint)
                    if known is None or (made.ready and not known.ready):
                        found[made.endpoint] = made
    return _choose(list(found.values()), place, local)


def of_runners(chosen: Iterable[Runner], spec: ServicePortSpec, place: Place, local: bool) -> Serving:
    """Return the endpoints for one port of a Service that selects these workloads."""
    target = spec.target_port if spec.target_port not in (None, "", 0) else spec.port
    protocol = (spec.protocol or "TCP").upper()
    found = []
    for runner in chosen:
        workload = runner.workload
        port = port_number(target, runner.named_ports, protocol)  # N23: resolved for each endpoint
        if port is not None:
            node = workload.node or (place.node if workload.netns or workload.unit else "")
            # One endpoint per workload: its first address, which for a pod is its podIP.
            for address in workload.addresses[:1]:
                found.append(_Found(Endpoint(address, port, workload.key), node=node))
    return _choose(found, place, local)


def hosts_of_slices(slices: Iterable[Resource[Any]]) -> tuple[Host, ...]:
    """Return the hosts that the EndpointSlices of a headless Service name, ready ones only.

    Of a Service with publishNotReadyAddresses, Kubernetes calls all of them ready.
    """
    found: dict[str, list[str]] = {}
    for one in slices:
        for entry in one.spec.endpoints or ():
            said = entry.conditions
            if said is None or said.ready is not False:
                for address in filter(is_address, entry.addresses[:1]):
                    found.setdefault(entry.hostname or f" {address}", []).append(canonical(address))
    return tuple(
        Host("" if name.startswith(" ") else name, tuple(dict.fromkeys(addresses)))
        for name, addresses in sorted(found.items())
    )


def hosts_of_runners(chosen: Iterable[Runner]) -> tuple[Host, ...]:
    """Return the hosts of a headless Service that selects these workloads."""
    hosts = (Host(runner.hostname, runner.workload.addresses) for runner in chosen if runner.workload.addresses)
    return tuple(sorted(hosts, key=lambda host: (host.hostname, host.addresses)))


def _found(endpoint: Endpoint, entry: SliceEndpoint, finder: Finder) -> _Found:
    said, hints = entry.conditions, entry.hints
    ready = said is None or said.ready is not False
    serving = ready if said is None or said.serving is None else said.serving
    node = entry.node_name or (entry.topology or {}).get("kubernetes.io/hostname", "")
    if not node and (runner := finder.by_key.get(endpoint.workload)) is not None:
        node = runner.workload.node
    return _Found(
        endpoint,
        ready,
        serving and said is not None and said.terminating is True,
        node,
        frozenset(one.name for one in hints.for_zones or ()) if hints is not None else frozenset(),
        frozenset(one.name for one in hints.for_nodes or ()) if hints is not None else frozenset(),
    )


def _choose(found: Sequence[_Found], place: Place, local: bool) -> Serving:
    endpoints = _one_for_each(_usable(found))
    if local:
        here = [one for one in found if one.node and one.node == place.node]
        return Serving(endpoints, _one_for_each(_usable(here)), f"internalTrafficPolicy Local of node {place.node}")
    ready = [one for one in found if one.ready]
    if not ready:
        return Serving(endpoints)
    near: Iterator[_Found]
    if all(one.nodes for one in ready) and any(place.node in one.nodes for one in ready):
        near, nearness = (one for one in ready if place.node in one.nodes), f"hints for node {place.node}"
    elif place.zone and all(one.zones for one in ready) and any(place.zone in one.zones for one in ready):
        near, nearness = (one for one in ready if place.zone in one.zones), f"hints for zone {place.zone}"
    else:
        return Serving(endpoints)
    chosen = _one_for_each(one.endpoint for one in near)
    return Serving(endpoints) if chosen == endpoints else Serving(endpoints, chosen, nearness)


def _usable(found: Iterable[_Found]) -> Iterator[Endpoint]:
    """Yield the ready endpoints; if there are none, those that still serve while they end."""
    ready = [one.endpoint for one in found if one.ready]
    yield from ready or [one.endpoint for one in found if one.ending]


def _one_for_each(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return each workload once, sorted.

    A Service of two families has a slice for each; a pod in both would receive twice its share.
    """
    found: dict[tuple[str, int], Endpoint] = {}
    for endpoint in sorted(set(endpoints), key=lambda e: (":" in e.address, e)):
        found.setdefault((endpoint.workload or endpoint.address, endpoint.port), endpoint)
    return tuple(sorted(found.values()))
