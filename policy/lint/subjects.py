"""Identities that no workload has, as sources and destinations of TrafficTargets and in Revocations."""

from __future__ import annotations

from collections.abc import Iterator

from policy.build import Built
from policy.enrolment import MESH, MONITORED
from policy.kinds.kubernetes import PodSpec
from policy.kinds.smi import TrafficTarget
from policy.lint.raw import mapping, namespace_of
from policy.model import Identity, Problem


def subjects(built: Built) -> Iterator[Problem]:
    """Report sources and destinations of TrafficTargets that no workload has."""
    resources, known, left_out = built.resources, _accounts(built), _left_out(built)
    by_name: dict[str, list[str]] = {}
    by_namespace: dict[str, list[str]] = {}
    for identity in sorted(known):
        by_name.setdefault(identity.service_account, []).append(identity.namespace)
        by_namespace.setdefault(identity.namespace, []).append(identity.service_account)
    for target in resources.all("TrafficTarget"):
        spec: TrafficTarget = target.spec
        subjects = [
            ("destination", spec.destination),
            *((f"sources[{number}]", source) for number, source in enumerate(spec.sources)),
        ]
        for at, subject in subjects:
            who = Identity(subject.namespace or target.namespace, subject.name)
            if who in known:
                if who in left_out:
                    words = f"no workload of {who} is in the mesh: {left_out[who]}"
                    what = "nothing guards it" if at == "destination" else "it calls without an identity"
                    hint = f"label the Namespace {MONITORED}, or {MESH}: enabled"
                    yield target.problem("warning", f"$.spec.{at}.name", f"{words}; {what}", hint)
                continue
            elsewhere = [namespace for namespace in by_name.get(who.service_account, ()) if namespace != who.namespace]
            near = f"did you mean namespace: {elsewhere[0]}?" if elsewhere and at != "destination" else ""
            near = near or resources.near(who.service_account, by_namespace.get(who.namespace, ()))
            message = (
                f"{at.partition('[')[0].removesuffix('s')} {who} is nobody: no Workload or Pod has this service account"
            )
            yield target.problem(
                "warning", f"$.spec.{at}.name", message, near or "a Workload says who it is by spec.serviceAccount"
            )


def callers(built: Built) -> Iterator[Problem]:
    """Report sources of Egresses that no workload has."""
    known = _accounts(built)
    for egress in built.resources.all("Egress"):
        for number, source in enumerate(egress.spec.sources):
            who = Identity(source.namespace or egress.namespace, source.name)
            if who not in known:
                same = [one.service_account for one in sorted(known) if one.namespace == who.namespace]
                message = f"source {who} is nobody: no Workload or Pod has this service account"
                hint = (
                    built.resources.near(who.service_account, same)
                    or "a Workload says who it is by spec.serviceAccount"
                )
                yield egress.problem("warning", f"$.spec.sources[{number}].name", message, hint)


def _left_out(built: Built) -> dict[Identity, str]:
    """Return the identities of which workloads exist, but none in the mesh, and why one of them is not.

    Without the Namespace the objects are only some of those that there are, and tell nothing.
    """
    found: dict[Identity, str] = {}
    enrolled = {workload.identity for workload in built.snapshot.workloads if workload.enrolled}
    for workload in built.snapshot.workloads:
        if workload.identity not in enrolled and built.resources.get("Namespace", workload.namespace) is not None:
            found.setdefault(workload.identity, workload.left_out)
    return found


def _accounts(built: Built) -> set[Identity]:
    """Return every identity that a workload has, or will have once the workloads of the other objects run."""
    known = {workload.identity for workload in built.snapshot.workloads}
    known.update(Identity(account.namespace, account.name) for account in built.resources.all("ServiceAccount"))
    for deployment in built.resources.all("Deployment"):
        known.add(Identity(deployment.namespace, _account(deployment.spec.template.spec)))
    # A Workload without an account that is named like this is reported as that.
    known.update(
        Identity(one.namespace, one.name) for one in built.resources.all("Workload") if not one.spec.service_account
    )
    for raw in built.others:  # a broken Workload is reported already, and edgemesh does not read StatefulSets
        spec, namespace = mapping(raw.data.get("spec")), namespace_of(raw.data)
        inside = mapping(mapping(spec.get("template")).get("spec"))
        for name in (
            spec.get("serviceAccount"),
            spec.get("serviceAccountName"),
            inside.get("serviceAccountName"),
            inside and "default",
        ):
            if isinstance(name, str) and name:
                known.add(Identity(namespace, name))
    return known


def _account(pod: PodSpec) -> str:
    return pod.service_account_name or pod.service_account or "default"


def revoked(built: Built) -> Iterator[Problem]:
    """Report identities in Revocations that no workload has."""
    known = _accounts(built)
    for revocation in built.resources.all("Revocation"):
        for number, one in enumerate(revocation.spec.identities):
            who = Identity(one.namespace, one.service_account)
            if who not in known:
                accounts = sorted(identity.service_account for identity in known if identity.namespace == who.namespace)
                hint = built.resources.near(who.service_account, accounts) or "is the name written right?"
                yield revocation.problem("notice", f"$.spec.identities[{number}]", f"nobody is {who} here", hint)
