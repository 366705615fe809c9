"""Which Service a Host field or a DNS name means. Names without a dot belong to the namespace of the caller."""

from __future__ import annotations

from collections.abc import Container


def key_of_host(host: str, namespace: str, cluster_domain: str) -> str:
    """Return the key of the Service that a host would mean, whether or not it exists; "" if the host is no name of a
    Service.

    A Service's name has the form svc, svc.ns, svc.ns.svc or svc.ns.svc.<cluster domain>, in any case, with or without a
    port and a final dot.
    """
    if host.startswith("["):
        return ""
    name, _, _ = host.partition(":")
    name = name.rstrip(".").lower()
    first, _, rest = name.partition(".")
    if not first:
        return ""
    if not rest:
        return f"{namespace}/{first}"
    second, _, suffix = rest.partition(".")
    # Accept any prefix of whole labels of svc.<cluster domain> that a resolver's search list may leave.
    if suffix and not f"svc.{cluster_domain}.".startswith(f"{suffix}."):
        return ""
    return f"{second}/{first}"


def key_of_search(name: str, namespace: str, cluster_domain: str, services: Container[str]) -> str:
    """Return the key of the Service that a DNS name means after a resolver's search list added a suffix; "" for any
    other name.

    Only names that cannot mean anything else are accepted, so that no name outside the mesh is hidden. These are a
    Service's whole name with any suffix, and what Kubernetes' list (<ns>.svc.<domain>, svc.<domain>) makes of a name
    with a namespace. The latter is not accepted if a Service named as that namespace could have such a host (a headless
    one: <host>.<svc>.<ns>.svc.<domain>). `services`: keys of those that exist.
    """
    labels = name.rstrip(".").lower().split(".")
    domain = ["svc", *cluster_domain.lower().split(".")]
    if labels[2 : 2 + len(domain)] == domain:
        return f"{labels[1]}/{labels[0]}"
    if labels[-len(domain) :] != domain:
        return ""
    given = labels[: -len(domain)]
    if len(given) == 3 and f"{given[2]}/{given[1]}" in services:
        return ""
    if len(given) > 2 and given[-1] == namespace:
        given = given[:-1]
    return f"{given[1]}/{given[0]}" if len(given) > 1 and given[2:] in ([], ["svc"]) else ""
