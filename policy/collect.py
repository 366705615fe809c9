"""Which version of each object is current: the given one, or the last good one if the given one cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from policy import salvage
from policy.decode import Unread, decode, identify, unwrap, wrong_with
from policy.enrolment import IGNORE, Marks, enrols
from policy.model import Problem
from policy.resources import RawObject, Resource, from_cluster, key_of


class Collected(Struct):
    """The result of collecting the objects. Keys are those of `key_of`."""

    current: dict[str, Resource[Any]]
    problems: list[Problem]
    others: list[RawObject]  # objects that cannot be decoded, and objects of kinds that are not read
    # Keys of `current` that come only from a broken object: a later build may not count them as good
    salvaged: frozenset[str]


def collect(raws: Iterable[RawObject], previous: Mapping[str, RawObject]) -> Collected:
    """Decode every object. `previous`: the objects that the last build accepted."""
    found = Collected({}, [], [], frozenset())
    unread: dict[tuple[str, str], list[Unread]] = {}
    broken: list[RawObject] = []
    for raw in sorted(unwrap(raws), key=lambda raw: (from_cluster(raw), raw.where)):  # what the directory says wins
        one = decode(raw)
        if isinstance(one, Resource):
            _add(one, found)
        elif isinstance(one, Unread):
            unread.setdefault((one.group, one.kind), []).append(one)
            found.others.append(raw)
        elif isinstance(one, Problem):
            broken.append(raw)
            found.others.append(raw)
    for raw in broken:
        _fall_back(raw, found, previous)
    found.salvaged = _keep_revoked([raw for raw in broken if salvage.may_be(raw)], found.current, previous)
    found.problems += _unread(unread)
    return found


def stays(problem: Problem) -> Problem:
    """Return the problem with a note that the last good version of the object stays in force."""
    stop = "? The" if problem.hint.endswith("?") else "; the" if problem.hint else "the"
    return structs.replace(problem, hint=f"{problem.hint.removesuffix('?')}{stop} last good version stays in force")


def _add(one: Resource[Any], found: Collected) -> None:
    current = found.current
    key = key_of(one.kind, one.namespace, one.name)
    if key in current and one.raw.where == current[key].raw.where and _age(one) < _age(current[key]):
        # Nothing tells which comes first: not the order of the input either
        one, current[key] = current[key], one
    if key in current and one.kind == salvage.KIND:
        current[key] = salvage.merged(current[key], one)
        found.problems.append(
            one.problem("warning", "$", "stands a second time; what either of them revokes is revoked")
        )
    elif key in current:
        found.problems.append(one.problem("error", "$", *_second(one, current[key])))
    else:
        current[key] = one


def _second(one: Resource[Any], used: Resource[Any]) -> tuple[str, str]:
    """Return message and hint for an object that does not count, since another of its name does."""
    if from_cluster(one.raw) == from_cluster(used.raw):
        return f"stands a second time; the one at {used.raw.where} is in force", "keep one of them"
    message = f"stands in the directory too; that one, at {used.raw.where}, is in force"
    inside = _enrols(used)
    if one.kind != "Namespace" or _enrols(one) == inside:
        return message, "keep one of them"
    if inside:
        return f"{message}, and puts its pods into the mesh", "keep one of them"
    return f"{message}, and takes its pods out of the mesh", "give that one the label too, or remove it"


def _enrols(namespace: Resource[Any]) -> bool:
    return enrols(Marks(namespace.labels, namespace.annotations)) and IGNORE not in namespace.labels


def _age(resource: Resource[Any]) -> tuple[str, str]:
    return resource.metadata.creation_timestamp or "9", repr(resource.raw.data)


def _fall_back(raw: RawObject, found: Collected, previous: Mapping[str, RawObject]) -> None:
    """Replace a broken object by its last good version, where there is one, and report every fault of it."""
    key = key_of(*identify(raw))
    before = decode(previous[key]) if key in previous and key not in found.current else None
    if isinstance(before, Resource):
        found.current[key] = before
    kept = isinstance(before, Resource) or (key in previous and salvage.may_be(raw))
    everything = wrong_with(raw)
    found.problems += map(stays, everything) if kept else everything


def _keep_revoked(
    lost: Sequence[RawObject], current: dict[str, Resource[Any]], previous: Mapping[str, RawObject]
) -> frozenset[str]:
    """Keep what a broken Revocation said before, and what is readable of it now. Return the keys that are new."""
    known = set(current)
    for raw in lost:
        key = key_of(*identify(raw))
        before = decode(previous[key]) if salvage.is_key(key) and key in previous else None
        for part in (before, salvage.salvaged(raw)):
            if isinstance(part, Resource):
                at = key_of(part.kind, part.namespace, part.name)
                current[at] = salvage.merged(current[at], part) if at in current else part
    return frozenset(current.keys() - known - previous.keys())


def _unread(unread: Mapping[tuple[str, str], Sequence[Unread]]) -> Iterable[Problem]:
    """Yield one problem for each kind that is not read."""
    for (group, kind), objects in sorted(unread.items()):
        times = f"{len(objects)} objects" if len(objects) > 1 else "1 object"
        name = f"{kind} ({group})" if group else kind
        where, lacking = objects[0].where, objects[0].lacking
        if lacking:
            yield Problem(
                "warning", where, name, f"{lacking} ({times})", "take it away when nothing else reads it", unmet=True
            )
        else:
            yield Problem("notice", where, "", f"{name} is not a kind that edgemesh reads; {times} left alone")
