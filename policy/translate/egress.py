"""Egress (OSM, fsm): what workloads may call outside the mesh, where the MeshConfig forbids it in general."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.osm import Egress, EgressMatch
from policy.model import EgressGrant, Identity
from policy.resources import Resource, key_of
from policy.translate.osm import FLAG, cidrs, is_off, precedence
from policy.translate.smi import http_match

# As policy knows them. Who may send any bytes may also wait for the server's
_PROTOCOLS = {"http": "http", "https": "https", "tcp": "tcp", "tcp-server-first": "tcp"}
_GROUP, _BOUNDS = "HTTPRouteGroup", "UpstreamTrafficSetting"
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*", re.IGNORECASE)


def check(egress: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: Egress = egress.spec
    for number, source in enumerate(spec.sources):
        at = f"$.spec.sources[{number}]"
        if source.kind != "ServiceAccount":
            yield f"{at}.kind", f"source kind {source.kind!r} is not known", "only ServiceAccount is"
        if source.mtls is not None:
            message = "no TLS with a client certificate is begun here, and without it the call would go in plain text"
            yield f"{at}.mtls", message, "leave mtls out, and let the program itself speak TLS (protocol https)"
    for number, port in enumerate(spec.ports):
        if port.protocol.lower() not in _PROTOCOLS:
            hint = resources.near(port.protocol, _PROTOCOLS) or f"known are {', '.join(_PROTOCOLS)}"
            yield f"$.spec.ports[{number}].protocol", f"protocol {port.protocol!r} is not known", hint
        elif _PROTOCOLS[port.protocol.lower()] != "tcp" and spec.hosts is None and spec.ip_addresses is None:
            message = f"protocol {port.protocol} needs hosts or ipAddresses, and this Egress has neither"
            hint = "name them; protocol tcp without ipAddresses lets anything out on a port"
            yield f"$.spec.ports[{number}].protocol", message, hint
    for number, host in enumerate(spec.hosts or ()):
        if host != "*" and not _HOST.fullmatch(host.removesuffix(".")) and not _is_address(host):
            hint = "write pay.example.com, or *.example.com for all names below; the port is one of `ports`"
            yield f"$.spec.hosts[{number}]", f"{host!r} is no host", hint
    for number, value in enumerate(spec.ip_addresses or ()):
        try:
            ipaddress.ip_network(value.strip(), strict=False)
        except ValueError:
            yield f"$.spec.ipAddresses[{number}]", f"{value!r} is not an address range", "write it as 203.0.113.0/24"
    for number, match in enumerate(spec.matches or ()):
        yield from _check_match(egress, number, match, resources)


def _check_match(egress: Resource[Any], number: int, match: EgressMatch, resources: Input) -> Iterable[Fault]:
    at = f"$.spec.matches[{number}]"
    if match.kind not in (_GROUP, _BOUNDS):
        yield f"{at}.kind", f"kind {match.kind!r} is not known", f"{_GROUP} and {_BOUNDS} are"
    elif match.kind == _GROUP and match.api_group.partition("/")[0] not in ("", "specs.smi-spec.io"):
        yield f"{at}.apiGroup", f"{match.api_group} has no kind {_GROUP}", "write specs.smi-spec.io"
    elif match.kind == _GROUP and resources.get(_GROUP, f"{egress.namespace}/{match.name}") is None:
        own = "the groups of an Egress are in its own namespace"
        near = resources.missing(_GROUP, egress.namespace, match.name)
        hint = f"{near}; {own}" if near.startswith("there") else near or own
        yield f"{at}.name", f"there is no {_GROUP} {egress.namespace}/{match.name}", hint


def groups_of(egress: Resource[Any]) -> Mapping[str, str]:
    """Return the objects that an Egress refers to: path of the reference -> key of the object."""
    return {
        f"$.spec.matches[{number}].name": key_of(match.kind, egress.namespace, match.name)
        for number, match in enumerate(egress.spec.matches or ())
        if match.kind == _GROUP
    }


def translate(resources: Input, draft: Draft) -> None:
    """Write what sources may call. The MeshConfig is translated before."""
    config = min(resources.all("MeshConfig"), key=precedence, default=None)
    off = config is not None and is_off(config)
    for egress in resources.all("Egress"):
        spec: Egress = egress.spec
        if off:
            message = f"does nothing: the MeshConfig has featureFlags.{FLAG}: false"
            draft.report(egress, "warning", "$", message, "set it to true, or take the Egress away")
            continue
        if draft.mesh.egress:
            message = "refuses nothing: whatever it does not name passes too, as traffic.enableEgress is not false"
            draft.report(egress, "warning", "$", message, "set traffic.enableEgress: false in the MeshConfig")
        _warn_of_matches(egress, draft)
        _warn_of_hosts(egress, draft)
        http = [
            http_match(match)
            for ref in spec.matches or ()
            if ref.kind == _GROUP
            for group in [resources.get(_GROUP, f"{egress.namespace}/{ref.name}")]
            if group is not None  # checked
            for match in group.spec.matches
        ]
        grouped = any(ref.kind == _GROUP for ref in spec.matches or ())
        for source in dict.fromkeys(Identity(one.namespace or egress.namespace, one.name) for one in spec.sources):
            draft.egress.append(
                EgressGrant(
                    egress.title,
                    source,
                    tuple(sorted({(port.number, _PROTOCOLS[port.protocol.lower()]) for port in spec.ports})),
                    tuple(sorted({_plain(host) for host in spec.hosts or ()})),
                    cidrs(spec.ip_addresses or ()),
                    tuple(http) if grouped else None,
                )
            )


def _warn_of_matches(egress: Resource[Any], draft: Draft) -> None:
    spec: Egress = egress.spec
    unseen = sorted({port.protocol for port in spec.ports if _PROTOCOLS[port.protocol.lower()] != "http"})
    if unseen and any(ref.kind == _GROUP for ref in spec.matches or ()):
        message = (
            f"matches bind only ports of protocol http: what goes out by {', '.join(unseen)} is not seen as requests"
        )
        draft.report(egress, "warning", "$.spec.matches", message, "write an Egress of its own for the other ports")


def _warn_of_hosts(egress: Resource[Any], draft: Draft) -> None:
    """Point out ports on which hosts bind nothing: without ranges such calls go anywhere."""
    spec: Egress = egress.spec
    opaque = [port.number for port in spec.ports if _PROTOCOLS[port.protocol.lower()] == "tcp"]
    if opaque and spec.hosts and not spec.ip_addresses:
        message = f"hosts are not looked at for tcp: on port {', '.join(map(str, opaque))} any address may be called"
        draft.report(egress, "warning", "$.spec.hosts", message, "name the addresses in ipAddresses")


def _plain(host: str) -> str:
    return str(ipaddress.ip_address(host)) if _is_address(host) else host.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
