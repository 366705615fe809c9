"""Ingress (Kubernetes): all Ingresses of ours together are listeners on ports 80 and 443, as those of a Gateway.

Rules of several Ingresses for one host are merged: the longest path that fits decides, of two alike the exact one, and
then the older Ingress. What no rule of a host fits goes to the rules for every host, and at last to a default backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct, structs

from policy.draft import Draft, Input
from policy.gateway import INGRESS_CONTROLLER, GatewayState, Listener, VirtualHost, order, shared
from policy.kinds.ingress import Ingress, IngressPath, IngressRuleBackend
from policy.model import Service, ServicePort
from policy.resources import Resource
from policy.route import Backend, Exact, HttpMatch, Prefix, Regex, Route, Rule

NAME = "edgemesh"  # of the class where no IngressClass says it
SOURCE = "IngressClass edgemesh"  # what IngressBackends name, and the owner of the listeners
HTTP, HTTPS = 80, 443
_MOST_ADDRESSES = 16  # of a status
_DEFAULT = "ingressclass.kubernetes.io/is-default-class"
_OLD = "kubernetes.io/ingress.class"  # an annotation, from before there were classes


class _Path(Struct, frozen=True):
    """One path of a rule, with the key of its precedence."""

    order: tuple[Any, ...]
    match: HttpMatch
    rule: Rule


def ours(resources: Input) -> tuple[Resource[Ingress], ...]:
    """Return the Ingresses of our class, the oldest first, once for a build."""
    return resources.once(_ours)


def _ours(resources: Input) -> tuple[Resource[Ingress], ...]:
    classes = {one.name: one for one in resources.all("IngressClass")}
    names = {name for name, one in classes.items() if one.spec.controller == INGRESS_CONTROLLER}
    if NAME not in classes:
        names.add(NAME)
    default = any(classes[name].annotations.get(_DEFAULT) == "true" for name in names & classes.keys())
    found = []
    for ingress in resources.all("Ingress"):
        named = ingress.spec.ingress_class_name or ingress.annotations.get(_OLD, "")
        if named in names or (not named and default):
            found.append(ingress)
    return tuple(sorted(found, key=_age))


def _age(ingress: Resource[Ingress]) -> tuple[str, str, str]:
    return ingress.metadata.creation_timestamp or "9", ingress.namespace, ingress.name


def translate(resources: Input, draft: Draft) -> None:
    """Write listeners. Services are translated before."""
    found = ours(resources)
    if not found:
        return
    paths: dict[str, list[_Path]] = {}
    titles: dict[str, dict[str, None]] = {}
    for ingress in found:
        for number, rule in enumerate(ingress.spec.rules or ()):
            host = (rule.host or "").lower()
            for index, path in enumerate(rule.http.paths if rule.http is not None else ()):
                at = f"$.spec.rules[{number}].http.paths[{index}].backend"
                paths.setdefault(host, []).append(
                    _Path(
                        _precedence(path, ingress, number, index),
                        _match(path, host),
                        _rule(ingress, path.backend, at, draft),
                    )
                )
                titles.setdefault(host, {})[ingress.title] = None
    defaults = [one for one in found if one.spec.default_backend is not None]
    for ingress in defaults[:1]:
        backend = ingress.spec.default_backend or IngressRuleBackend()
        every = IngressPath("Prefix", backend, "/")
        last = (1, *_precedence(every, ingress, 0, 0))
        taken = _rule(ingress, backend, "$.spec.defaultBackend", draft)
        paths.setdefault("", []).append(_Path(last, _match(every, ""), taken))
        titles.setdefault("", {})[ingress.title] = None
    for ingress in defaults[1:]:
        message = f"{defaults[0].title} is older, and has the default backend for all calls"
        draft.report(ingress, "warning", "$.spec.defaultBackend", message, "write a rule for the hosts that are meant")
    reached = tuple(dict.fromkeys(one for node in draft.nodes.values() for one in node.addresses))[:_MOST_ADDRESSES]
    states = tuple(GatewayState(one.title, (), (), reached) for one in found)
    draft.gateways = structs.replace(draft.gateways, states=(*draft.gateways.states, *states))
    hosts = tuple(_virtual(host, paths[host], titles[host]) for host in sorted(paths, key=order))
    draft.listeners.append(Listener(SOURCE, "http", HTTP, "HTTP", SOURCE, hosts=_at(hosts, HTTP)))
    for host, secrets in sorted(_secrets(found, draft).items(), key=lambda one: order(one[0])):
        covered = tuple(one for one in hosts if shared(host, one.hostname) is not None)
        name = f"https {host}" if host else "https"
        draft.listeners.append(
            Listener(
                SOURCE, name, HTTPS, "HTTPS", SOURCE, hostname=host, certificates=secrets, hosts=_at(covered, HTTPS)
            )
        )


def _precedence(path: IngressPath, ingress: Resource[Ingress], number: int, index: int) -> tuple[Any, ...]:
    said = path.path or "/"
    return (
        0,
        -len(said.rstrip("/") if path.path_type != "Exact" else said),
        path.path_type != "Exact",
        *_age(ingress),
        number,
        index,
    )


def _match(path: IngressPath, host: str) -> HttpMatch:
    said = path.path or "/"
    fits = Exact(said) if path.path_type == "Exact" else Prefix(said.rstrip("/") or "/")
    fields: tuple[tuple[str, Exact | Regex], ...] = ()
    if host.startswith("*."):  # a wildcard is one label here, and one or more in the Gateway API
        fields = (("host", Regex(rf"(?i)^[^.:]+{re.escape(host[1:])}(?::[0-9]+)?$")),)
    return HttpMatch(f"{path.path_type} {said}", fits, (), fields)


def _rule(ingress: Resource[Ingress], backend: IngressRuleBackend, at: str, draft: Draft) -> Rule:
    why = ""
    if backend.service is None:
        why = "its backend is no Service, and others are not served"
        draft.report(ingress, "warning", f"{at}.resource", why, "name a Service")
        return Rule((), name=ingress.title, refuses="bad-route", detail=why)
    key = f"{ingress.namespace}/{backend.service.name}"
    service, wanted = draft.services.get(key), backend.service.port
    port = wanted.number or 0
    if service is None:
        why = f"there is no Service {key}"
    else:
        tcp = [one for one in service.ports if one.transport == "tcp"]
        if wanted.name and not wanted.number:
            port = next((one.port for one in tcp if one.name == wanted.name), 0)
        if not any(one.port == port for one in tcp):
            why = f"Service {key} has no port {wanted.name or wanted.number or ''}".rstrip()
    if why:
        draft.report(ingress, "warning", f"{at}.service", f"{why}: its calls are refused")
        return Rule((), name=ingress.title, refuses="bad-route", detail=why)
    return Rule((Backend(key, 1, port, strict=True),), name=ingress.title)


def _virtual(host: str, paths: list[_Path], titles: Iterable[str]) -> VirtualHost:
    rules = tuple(
        Rule(one.rule.backends, (one.match,), name=one.rule.name, refuses=one.rule.refuses, detail=one.rule.detail)
        for one in sorted(paths, key=lambda one: one.order)
    )
    route = Route(", ".join(titles), rules)
    return VirtualHost(host, Service("", f"{SOURCE}, {host or 'every host'}", (), (), (route,)))


def _at(hosts: Iterable[VirtualHost], port: int) -> tuple[VirtualHost, ...]:
    """Return the hosts as those of a listener at this port."""
    return tuple(
        VirtualHost(
            one.hostname,
            Service("", f"{one.service.name}, port {port}", (), (ServicePort("", port, "http"),), one.service.routes),
        )
        for one in hosts
    )


def _secrets(found: Iterable[Resource[Ingress]], draft: Draft) -> dict[str, tuple[str, ...]]:
    """Return the keys of the Secrets, by the host that is served with them; "": every host."""
    secrets: dict[str, dict[str, None]] = {}
    for ingress in found:
        for number, tls in enumerate(ingress.spec.tls or ()):
            if not tls.secret_name:
                message = "it names no Secret, and there is no certificate for it"
                draft.report(
                    ingress,
                    "warning",
                    f"$.spec.tls[{number}].secretName",
                    message,
                    "name a Secret of type kubernetes.io/tls",
                )
                continue
            for host in _hosts(tls.hosts):
                secrets.setdefault(host, {})[f"{ingress.namespace}/{tls.secret_name}"] = None
    return {host: tuple(keys) for host, keys in secrets.items()}


def _hosts(hosts: tuple[str, ...] | None) -> Iterator[str]:
    yield from (dict.fromkeys(host.lower() for host in hosts) if hosts else ("",))


def check(ingress: Resource[Any], _: Input) -> Iterator[tuple[str, str, str]]:
    """Find paths that mean nothing."""
    spec: Ingress = ingress.spec
    for number, rule in enumerate(spec.rules or ()):
        for index, path in enumerate(rule.http.paths if rule.http is not None else ()):
            at = f"$.spec.rules[{number}].http.paths[{index}].path"
            if path.path is not None and not path.path.startswith("/"):
                yield at, f"path {path.path!r} does not begin with /", "write / for every path"
            elif path.path is None and path.path_type == "Exact":
                yield at, "pathType Exact needs a path", "write the path, or pathType Prefix"
