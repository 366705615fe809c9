"""The Services that a route of the Gateway API is for: its parents, where they are Services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy.draft import Draft
from policy.kinds.gateway import ParentRef
from policy.resources import Resource

GROUP = "gateway.networking.k8s.io"


def is_ours(parent: ParentRef) -> bool:
    """Return whether a parent is a Service: then the route is for calls of the mesh."""
    return parent.kind == "Service" and parent.group in ("", "core")


def parents(route: Resource[Any]) -> Iterator[tuple[int, ParentRef]]:
    """Yield the number and reference of each parent that is a Service."""
    for number, parent in enumerate(route.spec.parent_refs or ()):
        if is_ours(parent):
            yield number, parent


def service_of(route: Resource[Any], parent: ParentRef) -> str:
    """Return the key of the Service that is a parent."""
    return f"{parent.namespace or route.namespace}/{parent.name}"


def warn_of_groups(route: Resource[Any], draft: Draft) -> None:
    """Point out parents that are written like Services, in a group that has none."""
    for number, parent in enumerate(route.spec.parent_refs or ()):
        if parent.kind == "Service" and not is_ours(parent):
            message = f"group {parent.group or GROUP} has no kind Service, so the route is not for {parent.name}"
            draft.report(route, "warning", f"$.spec.parentRefs[{number}]", message, 'write group: ""')


def attached(route: Resource[Any], number: int, parent: ParentRef, draft: Draft) -> tuple[int, ...]:
    """Return the ports of the parent that the route holds for: (0,) for all, () if it has no such."""
    key, at = service_of(route, parent), f"$.spec.parentRefs[{number}]"
    service = draft.services.get(key)
    if service is None:
        draft.report(route, "warning", f"{at}.name", f"there is no Service {key}, which the route is for")
        return ()
    if parent.port is None and not parent.section_name:
        return (0,)
    ports = {
        one.port
        for one in service.ports
        if one.transport == "tcp" and parent.port in (None, one.port) and parent.section_name in (None, "", one.name)
    }
    if not ports:
        wanted = " ".join(str(one) for one in (parent.section_name, parent.port) if one)
        has = ", ".join(f"{one.name} {one.port}".strip() for one in service.ports) or "none"
        draft.report(
            route, "warning", at, f"Service {key} has no port {wanted}, which the route is for", f"it has {has}"
        )
    return tuple(sorted(ports))
