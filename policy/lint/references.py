"""Gateways, classes and Services that nobody has, where routes, Gateways, Ingresses, IngressBackends and filters name them."""

from __future__ import annotations

from collections.abc import Iterator

from policy.build import Built
from policy.gateway import CONTROLLER, INGRESS_CONTROLLER
from policy.lint.raw import mapping, namespace_of
from policy.model import Problem, Severity
from policy.translate.gateway_attachment import ROUTE_KINDS, is_gateway
from policy.translate.gateway_listeners import classes as our_classes
from policy.translate.ingresses import NAME

_FOR_THE_MESH = 'for calls of the mesh write group: "", kind: Service'
_CLASS = f"a GatewayClass says controllerName: {CONTROLLER}"


def parents(built: Built) -> Iterator[Problem]:
    """Report Gateways and ListenerSets that are parents of routes, and that are not there."""
    resources, broken = built.resources, _broken(built)
    for route in (route for kind in ROUTE_KINDS for route in resources.all(kind)):
        for number, parent in enumerate(route.spec.parent_refs or ()):
            namespace = parent.namespace or route.namespace
            key = f"{namespace}/{parent.name}"
            there = resources.get(parent.kind, key) is not None or (parent.kind, key) in broken
            if there or not is_gateway(parent):
                continue
            is_service = resources.get("Service", key) is not None
            hint = _FOR_THE_MESH if is_service else resources.missing(parent.kind, namespace, parent.name)
            message = f"there is no {parent.kind} {key}, which the route is for"
            yield route.problem("warning", f"$.spec.parentRefs[{number}].name", message, hint)


def classes(built: Built) -> Iterator[Problem]:
    """Report classes of Gateways and Ingresses that are not there, and that were hardly meant to be another mesh's."""
    resources = built.resources
    ours = sorted({NAME, *resources.once(our_classes)})
    for gateway in resources.all("Gateway"):
        named = gateway.spec.gateway_class_name
        if resources.get("GatewayClass", named) is None and ("GatewayClass", named) not in _broken(built):
            near = "" if named in ours else resources.near(named, ours)
            message = f"there is no GatewayClass {named}: edgemesh does not serve this Gateway"
            severity: Severity = "warning" if near or named in ours else "notice"
            yield gateway.problem(severity, "$.spec.gatewayClassName", message, near or _CLASS)
    ingress_classes = {one.name: one for one in resources.all("IngressClass")}
    ours = sorted({NAME, *(name for name, one in ingress_classes.items() if one.spec.controller == INGRESS_CONTROLLER)})
    for ingress in resources.all("Ingress"):
        named = ingress.spec.ingress_class_name or ""
        if named and named not in (*ours, *ingress_classes) and (near := resources.near(named, ours)):
            message = f"there is no IngressClass {named}: edgemesh does not serve this Ingress"
            yield ingress.problem("warning", "$.spec.ingressClassName", message, near)


def sources(built: Built) -> Iterator[Problem]:
    """Report sources of IngressBackends by which nobody can come in."""
    resources, broken = built.resources, _broken(built)
    for backend in resources.all("IngressBackend"):
        for number, source in enumerate(backend.spec.sources):
            at = f"$.spec.sources[{number}].name"
            if source.kind == "Gateway":
                namespace = source.namespace or backend.namespace
                key = f"{namespace}/{source.name}"
                if resources.get("Gateway", key) is None and ("Gateway", key) not in broken:
                    hint = resources.missing("Gateway", namespace, source.name)
                    yield backend.problem("warning", at, f"there is no Gateway {key}, so it lets nobody in", hint)
            elif source.kind == "IngressClass" and source.name != NAME:
                message = f"IngressClass {source.name} lets nobody in: the Ingresses that edgemesh serves are all named {NAME}"
                hint = "of another controller name the Service, with kind: Service"
                yield backend.problem("warning", at, message, hint)


def asked(built: Built) -> Iterator[Problem]:
    """Report Services that filters are to ask, and that are not there."""
    resources, broken = built.resources, _broken(built)
    for one in resources.all("HTTPFilter"):
        said = one.spec.ext_auth
        if said is None:
            continue
        namespace = said.namespace or one.namespace
        key = f"{namespace}/{said.service}"
        service = resources.get("Service", key)
        what = "nobody can be asked" if said.on_failure == "failOpen" else "its calls are answered 503"
        if service is None and ("Service", key) not in broken:
            hint = resources.missing("Service", namespace, said.service)
            yield one.problem("warning", "$.spec.extAuth.service", f"there is no Service {key}: {what}", hint)
        elif service is not None and said.port not in [port.port for port in service.spec.ports or ()]:
            has = ", ".join(str(port.port) for port in service.spec.ports or ()) or "none"
            message = f"Service {key} has no port {said.port}: {what}"
            yield one.problem("warning", "$.spec.extAuth.port", message, f"it has {has}")


def _broken(built: Built) -> frozenset[tuple[str, str]]:
    """Return kind and key of objects that are not in force: they are reported by themselves."""
    found = set()
    for raw in built.others:
        kind, name = raw.data.get("kind"), mapping(raw.data.get("metadata")).get("name")
        if isinstance(kind, str) and isinstance(name, str):
            found.update({(kind, name), (kind, f"{namespace_of(raw.data)}/{name}")})
    return frozenset(found)
