"""Objects -> (Snapshot, Problems): decode, check, fall back to what was last good, translate. Pure and deterministic.

Theory of operation. An object is checked by itself and against the objects that it refers to. One that fails is replaced by the
version that was in force before, if that one still holds; so a typing error loses nothing that worked. If it does not hold either
(what it refers to was deleted), the object is left out: it grants nothing. Leaf kinds are settled first, then what refers to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from policy.addresses import RANGES
from policy.draft import Draft, Input
from policy.model import Node, Problem
from policy.resources import RawObject, Resource, Unread, decode, identify, key_of, unwrap
from policy.snapshot import Snapshot
from policy.translate import TRANSLATORS, access, core, mtls, osm, reach, revocation, smi

Fault = tuple[str, str, str]  # path, message, hint
Check = Callable[[Resource[Any], Input], Iterable[Fault]]


def _check_workload(workload: Resource[Any], resources: Input) -> Iterable[Fault]:
    yield from core.check_workload(workload, resources)
    yield from reach.check(workload, resources)


# Kinds with checks beyond their shape, those that others refer to first.
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("HTTPRouteGroup", lambda resource, _: smi.check_route_group(resource)),
    ("MeshConfig", lambda resource, _: osm.check_mesh_config(resource)),
    ("Namespace", lambda resource, _: mtls.check(resource)),
    ("AccessControl", lambda resource, _: access.check(resource)),
    ("Workload", _check_workload),
    ("TrafficTarget", smi.check_target),
    ("TrafficSplit", smi.check_split),
)
# Faults that do not take an object out of force when nothing stands in for it: it stays, and its translator does without that part.
# A Workload or a Namespace that went would leave workloads open.
_STANDS_ALONE = frozenset((core.STANDS_ALONE, reach.PATH, mtls.PATH))


class Built(Struct, frozen=True):
    """`accepted`: the objects in force, by key; give them to the next build as `previous`."""

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    accepted: dict[str, RawObject]


def build(
    resources: Sequence[RawObject],
    previous: Mapping[str, RawObject] | None = None,
    addresses: Mapping[str, Sequence[str]] | None = None,
    node: str = "",
    ranges: Sequence[str] = RANGES,
    nodes: Sequence[Node] = (),
) -> Built:
    """Build a snapshot for `node`. Never raises for what the objects say.

    `previous`: what the last build accepted. `addresses`: what Services were allotted before. `nodes`: how nodes are reached.
    """
    previous = previous or {}
    problems: list[Problem] = []
    current = _decode(resources, previous, problems)
    for kind, check in _CHECKS:
        _settle(kind, check, current, previous, problems)
    in_force = Input(current.values())
    draft = Draft(node, addresses or {}, ranges, nodes)
    for translate in TRANSLATORS:
        translate(in_force, draft)
    problems += draft.problems
    snapshot = draft.freeze()
    accepted = {key: resource.raw for key, resource in current.items()}
    return Built(snapshot, tuple(sorted(set(problems))), accepted)


def _decode(raws: Iterable[RawObject], previous: Mapping[str, RawObject], problems: list[Problem]) -> dict[str, Resource[Any]]:
    current: dict[str, Resource[Any]] = {}
    unread: dict[tuple[str, str], list[Unread]] = {}
    broken: list[tuple[RawObject, Problem]] = []
    lost: list[tuple[RawObject, Problem | None]] = []  # what may be a Revocation, and cannot be read
    for raw in sorted(unwrap(raws), key=lambda r: r.where):
        found = decode(raw)
        if found is None:
            continue
        if isinstance(found, Unread):
            unread.setdefault((found.group, found.kind), []).append(found)
            if revocation.may_be(raw, found):
                lost.append((raw, None))
        elif isinstance(found, Problem):
            (lost if revocation.may_be(raw, None) else broken).append((raw, found))
        else:
            key = key_of(found.kind, found.namespace, found.name)
            if key in current and raw.where == current[key].raw.where and _age(found) < _age(current[key]):
                found, current[key] = current[key], found  # nothing tells which stands first: not the order that we were given either
            if key in current and found.kind == revocation.KIND:
                current[key] = revocation.merged(current[key], found)
                problems.append(found.problem("warning", "$", "stands a second time; what either of them revokes is revoked"))
            elif key in current:
                message = f"stands a second time; the one at {current[key].raw.where} is in force"
                problems.append(found.problem("error", "$", message, "keep one of them"))
            else:
                current[key] = found
    for raw, problem in broken:
        key = key_of(*identify(raw))
        before = decode(previous[key]) if key in previous and key not in current else None
        if isinstance(before, Resource):
            current[key] = before
        problems.append(_kept(problem) if isinstance(before, Resource) else problem)
    if lost:
        _keep_revoked(lost, current, previous, problems)
    for (group, kind), objects in sorted(unread.items()):
        times = f"{len(objects)} objects" if len(objects) > 1 else "1 object"
        name = f"{kind} ({group})" if group else kind
        problems.append(Problem("notice", objects[0].where, "", f"{name} is not a kind that edgemesh reads; {times} left alone"))
    return current


def _keep_revoked(
    lost: Sequence[tuple[RawObject, Problem | None]],
    current: dict[str, Resource[Any]],
    previous: Mapping[str, RawObject],
    problems: list[Problem],
) -> None:
    """What was revoked stays so while something cannot be read that may say it; and what can be read of that something counts."""
    keys = {key_of(*identify(raw)) for raw, _ in lost}
    for key in sorted(previous):
        # An object that cannot be read may be any that is gone: renamed and broken in one edit. So all of those stay too.
        if not revocation.is_key(key) or (key in current and key not in keys):
            continue
        before = decode(previous[key])
        if isinstance(before, Resource):
            current[key] = revocation.merged(current[key], before) if key in current else before
            if key not in keys:
                problems.append(before.problem("warning", "$", *revocation.LEFT))
    for raw, problem in lost:
        part = revocation.salvaged(raw)
        if part is not None:
            key = key_of(part.kind, part.namespace, part.name)
            current[key] = revocation.merged(current[key], part) if key in current else part
        if problem is not None:
            problems.append(_kept(problem) if key_of(*identify(raw)) in previous else problem)


def _age(resource: Resource[Any]) -> tuple[str, str]:
    return resource.metadata.creation_timestamp or "9", repr(resource.raw.data)


def _settle(kind: str, check: Check, current: dict[str, Resource[Any]], previous: Mapping[str, RawObject], problems: list[Problem]) -> None:
    """Keep, replace or leave out every object of a kind."""
    keys = [key for key in current if current[key].kind == kind]
    if not keys:
        return
    known = Input(current.values())
    for key in keys:
        resource = current[key]
        faults = list(check(resource, known))
        if not faults:
            continue
        found = [resource.problem("error", path, message, hint) for path, message, hint in faults]
        before = decode(previous[key]) if key in previous else None
        if isinstance(before, Resource) and before.raw is not resource.raw and not list(check(before, known)):
            current[key] = before
            problems += map(_kept, found)
        elif all(path in _STANDS_ALONE for path, _, _ in faults):
            problems += found
        else:
            del current[key]
            problems += found


def _kept(problem: Problem) -> Problem:
    hint = f"{problem.hint}; " if problem.hint else ""
    return structs.replace(problem, hint=f"{hint}the last good version stays in force")
