"""IngressBackend (OSM, fsm): who may call a Service from outside the mesh, such as an ingress controller.

A source by address comes in as plain text, in strict mode too: a person has named it. A principal that is an identity
of the mesh comes in as any that a TrafficTarget names, on the backend's port. Callers of a Gateway of ours come in when
the Gateway is named, or a name in the certificate that they show to one of this namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.osm import IngressBackend, IngressBackendService, IngressSource
from policy.model import Grant, Identity, PlainGrant
from policy.resources import Resource, key_of
from policy.route import HttpMatch
from policy.translate.access import SPEAK_TLS, behind, check_ends, networks_of
from policy.translate.smi import http_match

PRINCIPAL = "AuthenticatedPrincipal"
GATEWAY, CLASS = "Gateway", "IngressClass"
GROUP = "HTTPRouteGroup"
_NAMES = ("spiffe://{domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT", "SERVICE-ACCOUNT.NAMESPACE.{domain}")


def check(ingress: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: IngressBackend = ingress.spec
    yield from check_ends(spec)
    for number, match in enumerate(spec.matches or ()):
        at = f"$.spec.matches[{number}]"
        if match.kind == GROUP:
            if resources.get(GROUP, f"{ingress.namespace}/{match.name}") is None:
                hint = resources.missing(GROUP, ingress.namespace, match.name)
                yield f"{at}.name", f"there is no {GROUP} {ingress.namespace}/{match.name}", hint
        elif match.kind != "UpstreamTrafficSetting":  # that one bounds what is let in, and lets in nothing
            message = f"matches of kind {match.kind} are not read, and without them this would let in more than it says"
            yield f"{at}.kind", message, f"known is {GROUP}"


def groups_of(ingress: Resource[Any]) -> Mapping[str, str]:
    """Return the objects that an IngressBackend refers to: path of the reference -> key of the object."""
    return {
        f"$.spec.matches[{number}].name": key_of(GROUP, ingress.namespace, match.name)
        for number, match in enumerate(ingress.spec.matches or ())
        if match.kind == GROUP
    }


def translate(resources: Input, draft: Draft) -> None:
    """Write plain grants and grants. Services and their endpoints are translated before."""
    for ingress in resources.all("IngressBackend"):
        spec: IngressBackend = ingress.spec
        identities: dict[Identity, None] = {}
        names: dict[str, None] = {}
        gateways: dict[str, None] = {}
        networks: set[str] = set()
        for number, source in enumerate(spec.sources):
            if source.kind == PRINCIPAL:
                found = _principal(ingress, number, source, draft)
                if isinstance(found, Identity):
                    identities[found] = None
                elif found:
                    names[found] = None
            elif source.kind == GATEWAY:
                gateways[f"{source.namespace or ingress.namespace}/{source.name}"] = None
            elif source.kind == CLASS:
                gateways[f"{CLASS} {source.name}"] = None
            else:
                networks.update(networks_of(ingress, number, source, resources, draft))
        http = _requests(ingress, resources)
        open_to: dict[tuple[str, bool], set[int]] = {}  # by workload, and whether a certificate is asked for
        proved: dict[Identity, set[int]] = {}
        for number, backend in enumerate(spec.backends):
            served = list(behind(ingress, number, backend, resources, draft))
            asks = not _by_address(ingress, number, backend, bool(networks or gateways), draft)
            for endpoint in served:
                open_to.setdefault((endpoint.workload, asks), set()).add(endpoint.port)
                workload = draft.workloads.get(endpoint.workload)
                if workload is not None:
                    proved.setdefault(workload.identity, set()).add(endpoint.port)
        for (workload_key, asks), ports in sorted(open_to.items()):
            ranges = () if asks else tuple(sorted(networks))
            through = () if asks else tuple(gateways)
            if ranges or through or names:
                draft.plain.append(
                    PlainGrant(
                        ingress.title,
                        workload_key,
                        tuple(sorted(ports)),
                        ranges,
                        strict=True,
                        http=http,
                        gateways=through,
                        principals=tuple(names),
                    )
                )
        for destination, ports in sorted(proved.items()):
            for identity in identities:
                draft.grants.append(Grant(ingress.title, identity, destination, tcp=tuple(sorted(ports)), http=http))


def _requests(ingress: Resource[Any], resources: Input) -> tuple[HttpMatch, ...] | None:
    """Return the requests that come in; None: whatever is sent."""
    groups = [
        resources.get(GROUP, f"{ingress.namespace}/{match.name}")
        for match in ingress.spec.matches or ()
        if match.kind == GROUP
    ]
    if not groups:
        return None
    return tuple(http_match(match) for group in groups if group is not None for match in group.spec.matches)


def _by_address(ingress: Resource[Any], number: int, backend: IngressBackendService, asked: bool, draft: Draft) -> bool:
    """Return whether callers come in by their address: not where the caller's certificate is asked for."""
    if backend.port.protocol.lower() != "https":
        return True
    at = f"$.spec.backends[{number}]"
    if backend.tls is not None and backend.tls.skip_client_cert_validation:
        message = (
            f"spec.backends[{number}].port.protocol: TLS is not opened here, and comes to the server as it is sent"
        )
        draft.report(ingress, "warning", f"{at}.port.protocol", message, SPEAK_TLS)
        return True
    if asked:
        message = "https asks callers for a certificate, so addresses alone let nobody in"
        hint = "name an AuthenticatedPrincipal, or write protocol http for plain text"
        draft.report(ingress, "warning", f"{at}.port.protocol", message, hint)
    return False


def _principal(ingress: Resource[Any], number: int, source: IngressSource, draft: Draft) -> Identity | str:
    """Return the identity of the mesh that is named, or another name in a certificate; "" if it names nobody."""
    domain = draft.mesh.trust_domain
    namespace = account = ""
    own = source.name.startswith(f"spiffe://{domain}/") or source.name.endswith(f".{domain}") or source.name == domain
    if source.name.startswith(f"spiffe://{domain}/ns/"):
        namespace, _, account = source.name.removeprefix(f"spiffe://{domain}/ns/").partition("/sa/")
    elif source.name.endswith(f".{domain}"):
        account, _, namespace = source.name.removesuffix(f".{domain}").rpartition(".")
    if namespace and account and not {"/", "*"} & set(namespace + account):
        return Identity(namespace, account)
    at = f"$.spec.sources[{number}].name"
    written = f"write it as {' or '.join(_NAMES).format(domain=domain)}"
    if own or "*" in source.name:
        draft.report(
            ingress, "warning", at, f"principal {source.name!r} is no identity of this mesh, and is left out", written
        )
        return ""
    message = f"principal {source.name!r} is no identity of this mesh: it is known by certificates that callers show"
    message += f" to Gateways of namespace {ingress.namespace}"
    draft.report(ingress, "notice", at, message, f"for an identity of the mesh, {written}")
    return source.name
