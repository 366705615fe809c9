"""Names that cannot be called, and omitted namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

from policy.build import Built
from policy.model import Problem

# RFC 1123 section 2.1, as Kubernetes applies it to Services and Namespaces
_LABEL = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def names(built: Built) -> Iterator[Problem]:
    """Check the names and namespaces of every object."""
    for resource in built.resources.every():
        namespace = resource.metadata.namespace
        if resource.namespace and not namespace:
            message = "it says no namespace, and so is in the one named default"
            yield resource.problem("warning", "$.metadata", message, "metadata: {name: ..., namespace: ...}")
        elif resource.namespace and not _LABEL.fullmatch(namespace):
            yield resource.problem(
                "warning", "$.metadata.namespace", f"{namespace!r} is no name of a namespace", _LABELS
            )
        if resource.kind in ("Service", "Namespace") and not _LABEL.fullmatch(resource.name):
            what = (
                "it cannot be called by its name"
                if resource.kind == "Service"
                else "what is in it cannot be called by name"
            )
            yield resource.problem("warning", "$.metadata.name", f"{resource.name!r} is no DNS label: {what}", _LABELS)


_LABELS = "lower-case letters, digits and '-', at most 63"
