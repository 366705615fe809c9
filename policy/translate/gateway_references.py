"""Who may refer to what across namespaces, where the Gateway API asks: ReferenceGrants, and choices of namespaces."""

from __future__ import annotations

from collections.abc import Mapping

from policy.draft import Input
from policy.kinds.gateways import FromNamespaces, LabelSelector, Requirement
from policy.translate.gateway_parents import GROUP

_Referring = tuple[str, str, str]  # group, kind and namespace of who refers
_Referred = tuple[str, str, str, str]  # group, kind, namespace and name of what is referred to; name "": every one


def granted(
    resources: Input, kind: str, namespace: str, to_kind: str, to_namespace: str, to_name: str, to_group: str = ""
) -> bool:
    """Return whether an object of the Gateway API may refer to an object, which may be of another namespace."""
    if namespace == to_namespace:
        return True
    allowed = resources.once(_grants).get((GROUP, kind, namespace), frozenset())
    return any((to_group, to_kind, to_namespace, name) in allowed for name in ("", to_name))


def _grants(resources: Input) -> Mapping[_Referring, frozenset[_Referred]]:
    found: dict[_Referring, set[_Referred]] = {}
    for grant in resources.all("ReferenceGrant"):
        for one in grant.spec.from_:
            allowed = found.setdefault((one.group, one.kind, one.namespace), set())
            allowed.update((to.group, to.kind, grant.namespace, to.name or "") for to in grant.spec.to)
    return {referring: frozenset(allowed) for referring, allowed in found.items()}


def admits(chosen: FromNamespaces | None, default: str, own: str, namespace: str, resources: Input) -> bool:
    """Return whether objects of `namespace` are meant. `own`: of the object that says it. `default`: without a choice."""
    which = (chosen.from_ if chosen is not None else None) or default
    if which == "Selector" and chosen is not None and chosen.selector is not None:
        known = resources.get("Namespace", namespace)
        labels = (known.metadata.labels or {}) if known is not None else {}
        # Every namespace of a cluster has this label; one that a manifest of a box only mentions has it too.
        return selects(chosen.selector, {"kubernetes.io/metadata.name": namespace, **labels})
    return which == "All" or (which == "Same" and namespace == own)


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether labels fit a selector; an empty one fits all."""
    wanted = selector.match_labels or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _holds(one, labels) for one in selector.match_expressions or ()
    )


def _holds(one: Requirement, labels: Mapping[str, str]) -> bool:
    match one.operator:
        case "In":
            return labels.get(one.key) in (one.values or ())
        case "NotIn":
            return labels.get(one.key) not in (one.values or ())
        case "Exists":
            return one.key in labels
        case "DoesNotExist":
            return one.key not in labels
    return False
