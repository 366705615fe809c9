"""SMI: TrafficSplits become routes.

A backend that is the root of another split passes its share on: that split spreads it over its own backends, and where
it has `matches`, only for requests that one of them fits. The result is one Route of plain rules (`_spread`), so nothing
else has to know that splits nest. SMI's own text leaves nesting out to keep implementations simple, and to keep circular
references out; loops are refused here, and depth and size are bounded before anything is made.

The statements cited (N20, A24 ...) are rows of tests/policy/smi_conformance.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import Any

from policy.draft import Draft, Input
from policy.faults import Fault
from policy.kinds.smi import TrafficSplit
from policy.model import Service
from policy.resources import Resource, key_of
from policy.route import Backend, HttpMatch, Route, Rule
from policy.translate.smi import http_match

_DEEPEST = 8  # splits one below the other
_MOST_RULES = 64  # of one Route: each split with matches below another one can double them
_MOST_MATCHES = 1000  # of one Route that nested splits make
_MOST_BACKENDS = 256  # of one Route that nested splits make, over all its rules
_MOST_SPLITS = 256  # that are followed for one Route, each as often as a way leads to it
_HEAVIEST = 1_000_000  # a weight; shares that need greater numbers are rounded

_Split = Resource[Any]
_Of = Callable[[str], _Split | None]  # by key of a Service: the split whose root it is
_Matches = tuple[HttpMatch, ...] | None  # None: every call
_Shares = dict[str, Fraction]  # by key of a Service
_Rules = list[tuple[_Matches, _Shares]]


class _Unusable(Exception):  # noqa: N818
    """Splits that are nested too deep, too wide, or in a loop: message and hint."""


def check_split(split: Resource[Any], resources: Input) -> Iterable[Fault]:
    spec: TrafficSplit = split.spec
    root = root_of(split)
    if root is None:
        yield (
            "$.spec.service",
            f"{spec.service} is in another namespace than the TrafficSplit ({split.namespace})",
            "splits act in their own",
        )
        return
    if not spec.backends:
        yield "$.spec.backends", "no backends", "name at least one"
    names: list[str | None] = []
    for number, backend in enumerate(spec.backends):
        at = f"$.spec.backends[{number}].service"
        name = own_name(backend.service, split.namespace)
        if backend.namespace and backend.namespace != split.namespace:  # A21
            message = f"backend {backend.namespace}/{backend.service} is in another namespace"
            yield f"$.spec.backends[{number}].namespace", message, f"backends are in the split's own, {split.namespace}"
        elif name is None:  # A21
            yield (
                at,
                f"backend {backend.service} is in another namespace",
                f"backends are in the split's own, {split.namespace}",
            )
        elif name == root:  # N26
            hint = f"make a Service of another name with the selector of {root}, and name that one"
            yield at, f"backend {backend.service} is the root service itself", hint
        elif name in names:
            yield at, f"{name} is named twice", "add the weights up"
        names.append(name)
    for number, ref in enumerate(spec.matches or ()):
        at = f"$.spec.matches[{number}]"
        if ref.kind != "HTTPRouteGroup":
            yield f"{at}.kind", f"kind {ref.kind!r} is not known", "only HTTPRouteGroup is"
        elif resources.get("HTTPRouteGroup", f"{split.namespace}/{ref.name}") is None:
            own = "a split's groups are in its own namespace"
            near = resources.missing("HTTPRouteGroup", split.namespace, ref.name)
            hint = f"{near}; {own}" if near.startswith("there") else near or own
            yield f"{at}.name", f"there is no HTTPRouteGroup {split.namespace}/{ref.name}", hint
    key = f"{split.namespace}/{root}"
    roots = resources.once(_roots)
    if (
        root not in names and key in roots and _is_same(roots[key], split)
    ):  # another one of this root is in force: this one leads nowhere
        try:
            _spread(split, resources, lambda of: split if of == key else roots.get(of), refuse=True)
        except _Unusable as problem:
            yield "$.spec.backends", *problem.args


def groups_of(split: Resource[Any]) -> Mapping[str, str]:
    """Return the objects that a TrafficSplit refers to: path of the reference -> key of the object."""
    return {
        f"$.spec.matches[{n}].name": key_of(one.kind, split.namespace, one.name)
        for n, one in enumerate(split.spec.matches or ())
    }


def root_of(split: Resource[Any]) -> str | None:
    """Return the name of the Service that is split; None if it is in another namespace.

    N16: it may be written as an FQDN.
    """
    return own_name(split.spec.service, split.namespace)


def own_name(service: str, namespace: str) -> str | None:
    """Return svc for svc, svc.ns, svc.ns.svc and svc.ns.svc.<cluster domain> if ns is this namespace; else None."""
    name, *rest = service.rstrip(".").split(".")
    return name if not rest or (rest[0] == namespace and rest[1:2] in ([], ["svc"])) else None


# translation: every object here has passed its check


def translate(resources: Input, draft: Draft) -> None:
    roots = resources.once(_roots)
    for split in sorted(resources.all("TrafficSplit"), key=_age):
        _split(split, roots, resources, draft)


def _age(split: _Split) -> tuple[str, str, str]:
    """Return a sort key. A18: the oldest split of a Service is in force."""
    return split.metadata.creation_timestamp or "9", split.namespace, split.name


def _roots(resources: Input) -> Mapping[str, _Split]:
    """Return the split of each Service, by key."""
    found: dict[str, _Split] = {}
    for split in sorted(resources.all("TrafficSplit"), key=_age):
        if (root := root_of(split)) is not None:
            found.setdefault(f"{split.namespace}/{root}", split)
    return found


def _is_same(one: _Split, other: _Split) -> bool:
    return (one.namespace, one.name) == (other.namespace, other.name)


def _split(split: _Split, roots: Mapping[str, _Split], resources: Input, draft: Draft) -> None:
    key = _key(split)
    root = draft.services.get(key)
    if root is None:
        near = resources.missing("Service", split.namespace, root_of(split) or "")
        draft.report(split, "warning", "$.spec.service", f"there is no Service {key} to split", near)
        return
    if not _is_same(roots[key], split):
        message = f"Conflict: {roots[key].title} is older and in force"
        draft.report(split, "warning", "$", message, "keep one split for a service")
        return
    backends = _backends(split)
    if not any(weight for _, weight in backends):  # A15
        draft.report(
            split, "warning", "$.spec.backends", "every weight is 0: calls are answered 503", "give a backend a weight"
        )
    for number, (name, weight) in enumerate(backends):
        service = draft.services.get(name)
        at = f"$.spec.backends[{number}].service"
        if service is None:  # N24
            message = f"there is no Service {name} yet; it gets nothing"
            near = resources.missing("Service", split.namespace, name.partition("/")[2])
            # Weight 0 is the first step of a rollout, as on SMI's own page.
            draft.report(split, "warning" if weight else "notice", at, message, near)
        elif missing := _missing(root, service):  # N22
            named = ", ".join(str(port) if transport == "tcp" else f"{port}/{transport}" for port, transport in missing)
            passes = f", and {roots[name].title} does not hold for its calls" if name in roots else ""
            draft.report(split, "warning", at, f"{name} has no port {named} and gets nothing there{passes}")

    def below(name: str) -> _Split | None:
        """Return the split that a backend passes its share on by. N22: none, where it could not take all of it itself."""
        service = draft.services.get(name)
        return roots.get(name) if service is not None and not _missing(root, service) else None

    rules, used = _spread(split, resources, lambda name: split if name == key else below(name))
    draft.routes[key] = (Route(", ".join(one.title for one in used), rules),)


def _missing(root: Service, backend: Service) -> list[tuple[int, str]]:
    """Return the ports of a root that a backend does not have."""
    return sorted({(p.port, p.transport) for p in root.ports} - {(p.port, p.transport) for p in backend.ports})


def _key(split: _Split) -> str:
    return f"{split.namespace}/{root_of(split)}"


def _backends(split: _Split) -> list[tuple[str, int]]:
    """Return key and weight of each backend."""
    return [(f"{split.namespace}/{own_name(b.service, split.namespace)}", b.weight) for b in split.spec.backends]


def _matches(split: _Split, resources: Input) -> _Matches:
    if not split.spec.matches:
        return None
    found: list[HttpMatch] = []
    for ref in split.spec.matches:  # N21: several groups count as one
        group = resources.get("HTTPRouteGroup", f"{split.namespace}/{ref.name}")
        found += [http_match(match) for match in group.spec.matches] if group is not None else ()
    return tuple(found)


# nesting


def _spread(split: _Split, resources: Input, of: _Of, refuse: bool = False) -> tuple[tuple[Rule, ...], list[_Split]]:
    """Return the rules of a split and of those below it, and all of these splits, itself first.

    `refuse`: raise _Unusable if they are too many, or in a loop that this one closes.
    """
    plain = (Rule(tuple(Backend(*one) for one in _backends(split)), _matches(split, resources)),)
    if not any(weight and of(name) is not None for name, weight in _backends(split)):
        return plain, [split]
    nest = _Nest(resources, of, refuse)
    try:
        found = nest.rules(_key(split), ())
    except _Unusable:  # what is below it has changed since its check: the last good version of one came back
        if refuse:
            raise
        return plain, [split]
    # N20: what no match of the split itself fits goes to the root's own endpoints, as does everything without a rule
    listed = found if split.spec.matches is None else found[:-1]
    return tuple(Rule(_weighed(shares), matches) for matches, shares in listed), nest.used


class _Nest:
    """Follows splits downwards. Everything it makes is bounded, and counted before it is made."""

    def __init__(self, resources: Input, of: _Of, refuse: bool) -> None:
        self._resources = resources
        self._of = of
        self._refuse = refuse
        self._followed = 0
        self.used: list[_Split] = []

    def rules(self, key: str, above: tuple[str, ...]) -> _Rules:
        """Return what becomes of a share of the Service `key`: the first rule that fits, and the last one always does.

        `above`: the Services on the way here, from the top.
        """
        split = self._of(key)
        way = (*above, key)
        if key in above and self._refuse and key == above[0]:
            self._refuse_loop(way)
        if split is None or key in above:  # its own endpoints; a loop is somebody else's to break
            return [(None, {key: Fraction(1)})]
        if len(above) >= _DEEPEST:
            raise _Unusable(
                f"splits nest deeper than {_DEEPEST}: {_shown(way)}", "let a split name the last backends itself"
            )
        self._followed += 1
        if self._followed > _MOST_SPLITS:
            raise _Unusable(f"more than {_MOST_SPLITS} ways lead through the splits below it", "nest fewer of them")
        if not any(one is split for one in self.used):
            self.used.append(split)
        total = sum(weight for _, weight in _backends(split))
        found: _Rules = [(None, {})]
        for name, weight in _backends(split):
            if above and total and not weight:
                continue  # what it is to get nothing of is said where its split is shown
            part = Fraction(weight, total or 1)
            below: _Rules = self.rules(name, way) if weight else [(None, {name: Fraction(1)})]
            self._bound(split, found, below)
            found = [
                (both, _sum(shares, more, part))
                for matches, shares in found
                for fits, more in below
                if (both := _both(matches, fits)) != ()
            ]
        own = _matches(split, self._resources)
        if own is None:
            return found
        self._bound(split, [(own, {})], found)
        within = [(both, shares) for matches, shares in found if (both := _both(own, matches)) != ()]
        return [*within, (None, {key: Fraction(1)})]

    def _refuse_loop(self, way: tuple[str, ...]) -> None:
        """Raise _Unusable for one split of the loop alone, the youngest: the others hold, as they are no loop without it."""
        splits = [split for key in way[:-1] if (split := self._of(key)) is not None]
        if max(splits, key=_age) is splits[0]:
            raise _Unusable(
                f"splits lead in a loop: {_shown(way)}",
                "give one of them other backends; the others hold without this one",
            )

    def _bound(self, split: _Split, one: _Rules, other: _Rules) -> None:
        rules = len(one) * len(other)
        matches = sum(len(a or "x") * len(b or "x") for a, _ in one for b, _ in other) if rules <= _MOST_RULES else 0
        backends = sum(len(a) + len(b) for _, a in one for _, b in other) if rules <= _MOST_RULES else 0
        if rules > _MOST_RULES or (rules > 1 and matches > _MOST_MATCHES) or backends > _MOST_BACKENDS:
            raise _Unusable(
                f"the splits below {_key(split)} make more than {_MOST_RULES} rules, {_MOST_MATCHES} matches or"
                f" {_MOST_BACKENDS} backends",
                "nest fewer of them",
            )


def _shown(way: Iterable[str]) -> str:
    return " -> ".join(key.partition("/")[2] for key in way)


def _sum(shares: _Shares, more: _Shares, part: Fraction) -> _Shares:
    found = dict(shares)
    for key, share in more.items():
        found[key] = found.get(key, Fraction(0)) + share * part
    return found


def _both(one: _Matches, other: _Matches) -> _Matches:
    """Return the matches that fit what both fit; (): nothing."""
    if one is None or other is None:
        return other if one is None else one
    return tuple(made for a in one for b in other if (made := _and(a, b)) is not None)


def _and(one: HttpMatch, other: HttpMatch) -> HttpMatch | None:
    """Return the match that fits what both fit; None if there is nothing that both methods are."""
    methods = (
        tuple(m for m in one.methods if m in other.methods)
        if one.methods and other.methods
        else one.methods or other.methods
    )
    if not methods and (one.methods or other.methods):
        return None
    paths = tuple(dict.fromkeys(path for path in (one.path, other.path, *one.also, *other.also) if path is not None))
    headers = tuple(dict.fromkeys(one.headers + other.headers))
    return HttpMatch(f"{one.name}+{other.name}", paths[0] if paths else None, methods, headers, (), paths[1:])


def _weighed(shares: _Shares) -> tuple[Backend, ...]:
    """Return backends with the smallest whole weights of these proportions."""
    whole = lcm(*(share.denominator for share in shares.values()))
    weights = {key: int(share * whole) for key, share in shares.items()}
    divisor = gcd(*weights.values()) or 1
    weights = {key: weight // divisor for key, weight in weights.items()}
    most = max(weights.values())
    if most > _HEAVIEST:
        weights = {key: weight and max(1, weight * _HEAVIEST // most) for key, weight in weights.items()}
    return tuple(Backend(key, weight) for key, weight in weights.items())
