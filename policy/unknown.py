"""An object of a kind that edgemesh does not read: a typing error, an object for another program, or one without effect
here.

A typing error must not be ignored: a Workload whose kind is misspelt would not be captured, and a Revocation would
revoke nothing. So a kind that does not exist is an error in groups of edgemesh and in groups that it reads completely.
In other groups it is an error if group and kind are both similar to one that edgemesh reads.
"""

from __future__ import annotations

from msgspec import Struct

from policy.near import nearest
from policy.registry import KINDS, row_name
from policy.resources import plain

# Kinds of these groups that exist and are not read. Where people may rely on one: what edgemesh does not do.
_NO_GATEWAY = "egress gateways are not supported: what an Egress lets out leaves from the caller's own node"
_CERTIFIES = "it is not read in this group, only as policy.openservicemesh.io/v1alpha1: its Secret is not written"
_KNOWN: dict[str, dict[str, str]] = {
    "edgemesh.io": {"NodeConfig": ""},
    "metrics.smi-spec.io": {"TrafficMetrics": ""},
    "config.openservicemesh.io": {
        "ExtensionService": "",
    },
    "policy.openservicemesh.io": {
        "EgressGateway": _NO_GATEWAY,
        "Telemetry": "",
    },
}
# Groups of which some kinds are read, with their other kinds; Kubernetes' own as of 1.37. A kind that is similar to
# none of these may be new.
_OTHERS: dict[str, frozenset[str]] = {
    "": frozenset(
        (
            *(
                "Binding",
                "ComponentStatus",
                "ConfigMap",
                "Endpoints",
                "Event",
                "LimitRange",
                "PersistentVolume",
            ),
            *("PersistentVolumeClaim", "PodTemplate", "ReplicationController", "ResourceQuota", "Secret", "List"),
        )
    ),
    "apps": frozenset(("ControllerRevision", "DaemonSet", "ReplicaSet", "StatefulSet")),
    "discovery.k8s.io": frozenset(),
    "gateway.networking.k8s.io": frozenset(("BackendTLSPolicy", "UDPRoute")),
    "networking.k8s.io": frozenset(("IPAddress", "ServiceCIDR")),
    "policy.flomesh.io": frozenset(  # fsm's group, of which three kinds are read
        (
            "AccessCert",
            "CircuitBreaking",
            "EgressGateway",
            "FaultInjection",
            "HealthCheck",
            "LoadBalancer",
        )
    ),
}
# Kinds of other groups that forbid something which edgemesh does not forbid.
_FORBIDS = "it is not read here: what it forbids is not forbidden by edgemesh"
_UNKEPT: dict[tuple[str, str], str] = {
    ("networking.k8s.io", "NetworkPolicy"): _FORBIDS,
    ("security.istio.io", "AuthorizationPolicy"): _FORBIDS,
    ("security.istio.io", "PeerAuthentication"): _FORBIDS,
    ("security.istio.io", "RequestAuthentication"): _FORBIDS,
    ("policy.linkerd.io", "AuthorizationPolicy"): _FORBIDS,
    ("policy.linkerd.io", "ServerAuthorization"): _FORBIDS,
    ("cilium.io", "CiliumNetworkPolicy"): _FORBIDS,
    ("cilium.io", "CiliumClusterwideNetworkPolicy"): _FORBIDS,
    ("crd.projectcalico.org", "NetworkPolicy"): _FORBIDS,
    ("projectcalico.org", "NetworkPolicy"): _FORBIDS,
    ("policy.flomesh.io", "AccessCert"): _CERTIFIES,
    ("policy.flomesh.io", "EgressGateway"): _NO_GATEWAY,
}
_GROUPS = frozenset(kind.group for kind in KINDS.values())
# Groups that are read completely: a kind that is similar to none of theirs is an error
_WHOLE = frozenset((*_KNOWN, *_GROUPS)) - _OTHERS.keys()
_ALIKE = 0.8  # how similar a group must be to one that is read, to be meant


class Stranger(Struct, frozen=True):
    """What such an object is.

    `error` "": not a typing error. `meant`: the kind that was probably meant, "" for none.
    """

    error: str = ""
    hint: str = ""
    meant: str = ""
    lacking: str = ""  # what it requests and edgemesh does not do


def look(group: str, version: str, kind: str) -> Stranger:
    """Return what an object is whose kind is not in KINDS, or not in this group."""
    bare = kind.removesuffix("List")  # an empty List; the items of others were yielded separately before
    if kind != bare and (bare in _homes(group) or bare in (*_KNOWN.get(group, ()), *_OTHERS.get(group, ()))):
        return Stranger()
    if (group, kind) in _UNKEPT:
        return Stranger(lacking=_UNKEPT[group, kind])
    if kind in _KNOWN.get(group, ()):
        return Stranger(lacking=_KNOWN[group][kind])
    if kind in _OTHERS.get(group, ()):
        return Stranger()
    if not group and version in (*_KNOWN, *_GROUPS):  # apiVersion: edgemesh.io
        meant = nearest(kind, _homes(version)) if version in _GROUPS else ""
        name = row_name(version, meant)
        versions = KINDS[name].versions if meant else ("v1alpha1",)
        return Stranger(f"apiVersion {version} has no version", f"write {version}/{versions[-1]}", name)
    if group in _WHOLE:
        return _misspelt(group, version, kind, list(_KNOWN.get(group, ())), certain=True)
    if group in _OTHERS:
        return _misspelt(group, version, kind, sorted(_OTHERS[group]), certain=False)
    # An unknown group that is similar to one that is read, with a kind that is similar to one of that group.
    near = nearest(group, filter(None, _GROUPS), _ALIKE)
    meant = nearest(kind, _homes(near), _ALIKE) if near else ""
    if not meant or group.endswith(".k8s.io") or group in ("app", "policy"):
        return Stranger()
    name = row_name(near, meant)
    hint = f"did you mean {near}/{KINDS[name].versions[-1]}, kind {meant}?"
    return Stranger(f"there is no group {group} that edgemesh reads", hint, name)


def _homes(group: str) -> list[str]:
    """Return the kinds whose first group this is."""
    return [plain(name) for name, kind in KINDS.items() if kind.group == group]


def _misspelt(group: str, version: str, kind: str, others: list[str], certain: bool) -> Stranger:
    """Describe a kind that does not exist in a group whose kinds are known.

    `certain`: also a kind that is similar to none is an error.
    """
    written = f"{group}/{version}".lstrip("/")
    if kind in KINDS and (certain or not group):  # the right kind in the wrong group
        home = KINDS[kind]
        return Stranger(
            f"{written} has no kind {kind}",
            f"write apiVersion: {home.group}/{home.versions[-1]}".replace(": /", ": "),
            kind,
        )
    here = [plain(name) for name, read in KINDS.items() if group in (read.group, *read.also)]
    near = nearest(kind, [*here, *others], 0.6 if certain else _ALIKE)
    if not near and not certain:
        return Stranger()
    hint = f"did you mean {near}?" if near else f"known there: {', '.join(sorted([*here, *others]))}"
    return Stranger(f"{written} has no kind {kind}", hint, row_name(group, near) if near in here else "")
