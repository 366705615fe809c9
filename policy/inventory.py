"""Inventory: which workloads and Services exist, at which addresses and under which names. It decides nothing.

The encoded fields are plain data. The indexes are built on first use and cached beside it (`cached_property`). No
lookup takes longer with more objects.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property
from typing import Literal

from msgspec import Struct

from policy.model import Endpoint, Mesh, Protocol, Service, ServicePort, Workload
from policy.service_names import key_of_host, key_of_search
from policy.upstream import ServiceBounds


class Destination(Struct, frozen=True):
    """What an address and port mean to the mesh.

    "service": an address of a Service. "no-port": an address of a Service that has no such port. "workload": an
    enrolled workload's own address; `protocol` is the one that a Service declares for that port, if one does.
    "external": an address outside the mesh.
    """

    kind: Literal["service", "workload", "external", "no-port"]
    service: Service | None = None
    port: ServicePort | None = None
    workload: Workload | None = None
    endpoint: Endpoint | None = None
    protocol: Protocol = ""


_EXTERNAL = Destination("external")


class Inventory(Struct, frozen=True, dict=True):
    """Everything that can be called, as one node knows it."""

    node: str  # the node that the inventory is built for
    mesh: Mesh = Mesh()
    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()

    # indexes

    @cached_property
    def _workloads(self) -> Mapping[str, Workload]:
        return {workload.key: workload for workload in self.workloads}

    @cached_property
    def _services(self) -> Mapping[str, Service]:
        return {service.key: service for service in self.services}

    @cached_property
    def _by_address(self) -> Mapping[str, tuple[Workload, ...]]:
        found: dict[str, tuple[Workload, ...]] = {}
        for workload in self.workloads:
            for address in workload.addresses:
                found[address] = (*found.get(address, ()), workload)
        return found

    @cached_property
    def _service_by_address(self) -> Mapping[str, Service]:
        found: dict[str, Service] = {}
        for service in self.services:
            for address in service.addresses:
                found.setdefault(address, service)
        return found

    @cached_property
    def _dialled(self) -> Mapping[tuple[str, int], Destination]:
        found: dict[tuple[str, int], Destination] = {}
        for service in self.services:
            for port in service.ports:
                if port.transport == "tcp":
                    destination = Destination("service", service, port, None, None, port.protocol)
                    for address in service.addresses:
                        found.setdefault((address, port.port), destination)
        return found

    @cached_property
    def _served(self) -> Mapping[tuple[str, int], tuple[Service, ServicePort]]:
        """The Service and port that send to an endpoint, by the endpoint's address and port.

        A Service of the workload's own namespace is preferred, and then one that declares the protocol: others may name
        the workload, and do not say how it is spoken to.
        """
        found: dict[tuple[str, int], tuple[Service, ServicePort]] = {}
        ranks: dict[tuple[str, int], tuple[bool, bool]] = {}
        for service in self.services:
            for port in service.ports:
                if port.transport != "tcp":
                    continue
                for endpoint in port.endpoints:
                    own = endpoint.workload.partition("/")[0] in ("", service.namespace)
                    rank = (own, bool(port.protocol))
                    for address in self._addresses(endpoint):
                        key = (address, endpoint.port)
                        if key not in found or rank > ranks[key]:
                            found[key], ranks[key] = (service, port), rank
        return found

    @cached_property
    def _headless(self) -> Mapping[str, tuple[str, ...]]:
        """The sorted endpoint addresses of each Service that has no address of its own, by key of the Service."""
        return {
            service.key: tuple(
                sorted({address for port in service.ports for e in port.endpoints for address in self._addresses(e)})
            )
            for service in self.services
            if not service.addresses
        }

    def _addresses(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Return all addresses of the endpoint's workload.

        A Service has one endpoint for each workload. Any address of the workload means that endpoint.
        """
        workload = self._workloads.get(endpoint.workload)
        return (endpoint.address, *workload.addresses) if workload is not None else (endpoint.address,)

    @cached_property
    def _patient(self) -> Mapping[tuple[str, int], float]:
        """Idle timeout of connections in seconds, by workload (or address) and port.

        Where several Services set one, the longest applies.
        """
        found: dict[tuple[str, int], float] = {}
        for service in self.services:
            for port in service.ports:
                for endpoint in port.endpoints if port.idle is not None else ():
                    key, idle = (endpoint.workload or endpoint.address, endpoint.port), port.idle
                    assert idle is not None
                    found[key] = 0.0 if idle == 0 or found.get(key) == 0 else max(idle, found.get(key, 0.0))
        return found

    @cached_property
    def _bounded(self) -> Mapping[tuple[str, int], tuple[ServiceBounds, ...]]:
        """What bounds calls to a port of a workload: the Services of its own namespace that lead there."""
        found: dict[tuple[str, int], tuple[ServiceBounds, ...]] = {}
        for service in self.services:
            if service.upstream is None:
                continue
            for port in service.ports:
                for endpoint in port.endpoints if port.transport == "tcp" else ():
                    if endpoint.workload.partition("/")[0] != service.namespace:
                        continue
                    key = (endpoint.workload, endpoint.port)
                    if service.upstream not in found.get(key, ()):
                        found[key] = (*found.get(key, ()), service.upstream)
        return found

    # lookups

    def workload(self, key: str) -> Workload | None:
        return self._workloads.get(key)

    def service(self, key: str) -> Service | None:
        return self._services.get(key)

    def workload_at(self, address: str, port: int = 0) -> Workload | None:
        """Return the workload at an address.

        The port tells workloads apart that share an address (systemd units), and a pod on its node's network from
        everything else there. Return None if it does not, as where such a pod and another identity have one port.
        """
        found = self._by_address.get(address, ())
        if not found or (len(found) == 1 and not found[0].host_network):
            return found[0] if found else None
        there = [workload for workload in found if port in workload.ports]
        if any(one.host_network for one in there) and len({(one.identity, one.enrolled) for one in there}) > 1:
            return None
        return there[0] if there else None

    def workloads_at(self, address: str) -> tuple[Workload, ...]:
        """Return all workloads with this address: systemd units share the address of their node."""
        return self._by_address.get(address, ())

    def idle_timeout(self, endpoint: Endpoint) -> float | None:
        """Return the idle timeout of connections to the endpoint in seconds, 0 for none; None: its Service
        sets none.
        """
        if not self._patient:
            return None
        return self._patient.get((endpoint.workload or endpoint.address, endpoint.port))

    def bounds(self, endpoint: Endpoint) -> tuple[ServiceBounds, ...]:
        """Return what bounds the calls to an endpoint at its own node, whichever Service was called."""
        return self._bounded.get((endpoint.workload, endpoint.port), ()) if self._bounded else ()

    def service_at(self, address: str) -> Service | None:
        return self._service_by_address.get(address)

    def has_address(self, address: str) -> bool:
        """Return whether this is the address of a workload or a Service of the mesh."""
        return address in self._by_address or address in self._service_by_address

    def addresses_of(self, service: Service) -> tuple[str, ...]:
        """Return the addresses that the Service's name resolves to: its own, or if it is headless those of its
        endpoints in every address family.
        """
        return service.addresses or self._headless.get(service.key, ())

    def serves(self, service: Service, workload: Workload) -> bool:
        """Return whether a call to this Service may reach this workload: as its endpoint, or as a backend's."""
        rules = (rule for route in service.routes for rule in route.rules)
        backends = [self._services.get(backend.service) for rule in rules for backend in rule.backends]
        chosen = (one for one in (service, *backends) if one is not None)
        return any(
            endpoint.workload == workload.key for one in chosen for port in one.ports for endpoint in port.endpoints
        )

    def destination(self, address: str, port: int) -> Destination:
        """Return what a dialled address and port mean to the mesh."""
        found = self._dialled.get((address, port))
        if found is not None:
            return found
        service = self._service_by_address.get(address)
        if service is not None:
            return Destination("no-port", service)
        workload = self.workload_at(address, port)
        if workload is None or not workload.enrolled:
            return _EXTERNAL
        served, served_port = self._served.get((address, port), (None, None))
        own = served is not None and served.namespace == workload.namespace
        protocol = served_port.protocol if served_port and own else ""
        return Destination("workload", served, served_port, workload, Endpoint(address, port, workload.key), protocol)

    def named(self, host: str, namespace: str) -> Service | None:
        """Return the Service that a Host field or a DNS name means in `namespace`, or None (service_names.py)."""
        key = key_of_host(host, namespace, self.mesh.cluster_domain)
        return self._services.get(key) if key else None

    def searched(self, name: str, namespace: str, keys: Container[str] = ()) -> Service | None:
        """Return the Service that a DNS name with a search list's suffix means; None if it may mean anything else.

        `keys`: of all Services, with those that nothing is sent to.
        """
        key = key_of_search(name, namespace, self.mesh.cluster_domain, keys or self._services)
        return self._services.get(key) if key else None
