"""Objects -> (Snapshot, Problems): collect, keep what lasts, settle, translate. Pure and deterministic.

Theory of operation. Each object is checked by itself and against the objects that it refers to. An object that fails is
replaced by the version that was in force before, if that version still passes. So a typing error loses nothing that
worked. An object that disappeared from the manifests stays if its absence would open what it closed (lasting.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from policy import lasting
from policy.addresses import RANGES
from policy.collect import collect
from policy.decode import identify
from policy.draft import Draft, Input
from policy.model import Node, Problem
from policy.registry import TRANSLATORS
from policy.resources import RawObject, key_of
from policy.settle import Settlement
from policy.snapshot import Snapshot


class Built(Struct, frozen=True):
    """The result of a build.

    `accepted`: the objects in force, by key. It is `previous` of the next build, without the objects that a person
    released.

    `resources`: the same objects, decoded. `others`: objects that are not in force, because they are broken or of a
    kind that is not read. `kept`: keys of objects in force that are no longer in any manifest (lasting.py).
    """

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    accepted: dict[str, RawObject]
    resources: Input = Input(())
    others: tuple[RawObject, ...] = ()
    kept: tuple[str, ...] = ()


def build(
    resources: Sequence[RawObject],
    previous: Mapping[str, RawObject] | None = None,
    addresses: Mapping[str, Sequence[str]] | None = None,
    node: str = "",
    ranges: Sequence[str] = RANGES,
    nodes: Sequence[Node] = (),
    doors: Sequence[str] = (),
) -> Built:
    """Build a snapshot for `node`. Never raise, whatever the objects contain.

    `previous`: the objects that the last build accepted. `addresses`: the addresses allotted to Services before.
    `nodes`: how to reach the other nodes. `doors`: ranges of which each Gateway that names no address gets one.
    """
    previous = previous or {}
    found = collect(resources, previous)
    told = {problem.object for problem in found.problems if problem.severity == "error"}
    lost = {key: raw for raw in found.others if (key := key_of(*identify(raw))) not in found.current and key in told}
    lasts = lasting.keep(found.current, previous, node)
    settlement = Settlement(found.current, previous, lost)
    settlement.settle()
    in_force = Input(found.current.values())
    draft = Draft(node, addresses or {}, ranges, nodes, doors)
    broken = (identify(raw) for raw in (*found.others, *lost.values()))
    draft.unread = tuple(sorted({f"{namespace}/{name}" for kind, namespace, name in broken if kind == "Service"}))
    for translate in TRANSLATORS:
        translate(in_force, draft)
    snapshot = draft.freeze()
    problems = (*found.problems, *lasts.values(), *settlement.problems, *draft.problems)
    accepted = {key: resource.raw for key, resource in found.current.items() if key not in found.salvaged}
    not_in_force = {id(raw): raw for raw in (*found.others, *lost.values())}
    return Built(
        snapshot,
        tuple(sorted(set(settlement.with_consequences(problems)))),
        accepted,
        in_force,
        tuple(not_in_force.values()),
        tuple(sorted(lasts)),
    )
