"""What the fast path learned: where the requests of a caller may go, and the responses of refusals.

A plan says where the requests of one caller to one destination may go, and holds for one snapshot. A target leads to
one endpoint for one caller. It has either idle connections to the server, or connections that carry streams (links.py).
`forget` makes everything stale that was learned: the next request of each caller comes back.

The fast path learns exactly what the decision looked at (sights.py): which rule of a Route applies, and whether the
endpoint may be called. A rule of which it cannot do everything stays with the slow path (changes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import trio

from nodeproxy.codec.local_reply import answer
from nodeproxy.codec.message import RequestHead
from nodeproxy.context import Conn, Context
from nodeproxy.errors import Refused
from nodeproxy.fastpath import sights
from nodeproxy.fastpath.changes import changes
from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.links import Links
from nodeproxy.fastpath.sights import Sight
from nodeproxy.interfaces import Pick, Share, Way
from nodeproxy.native import ID_SIZE, Change, Given, Looks, Program, Target
from nodeproxy.native import Plan as NativePlan
from nodeproxy.protocols.http.attempt import server_speaks_h2
from nodeproxy.routing.source import caller_key, forwarded_for
from nodeproxy.telemetry.counts import Pair
from nodeproxy.upstream.balance import Turns
from nodeproxy.upstream.http1_pool import Key, Upstream
from policy.model import Endpoint, Identity, Request, Workload
from policy.route import Filter, RequestFields

_MOST_PAIRS = 4096
_MOST_DENIALS = 256
_ID = "0" * ID_SIZE
_MOST_PLANS = 4096
_MOST_GROUPS = 255  # of a plan: the backends of all rules
_MOST_TARGETS = 1024  # of a plan
_ROUND = 256  # turns that a section has
_FEW = 128  # turns left when more are drawn, as nodeproxy/native/flow.h: fewer than are taken before Python looks again


class Place(NamedTuple):
    """What a target of a plan is for. Without rules that depend on the request only the endpoint counts."""

    section: int
    service: str
    filters: tuple[Filter, ...]
    endpoint: Endpoint


class Section(NamedTuple):
    """The turns of the backends of one rule, and their keys in the order of its groups. `number`: in its plan."""

    number: int
    turns: Turns
    names: list[str]


class Plan:
    """Where one caller's requests to one destination may go. `sections`: by the number of the rule."""

    __slots__ = ("_split", "always", "native", "places", "refuses", "sections")

    def __init__(
        self,
        native: NativePlan,
        places: Mapping[Place, Target],
        split: list[Section],
        sections: Mapping[int, int] | None,
        always: bool,
    ) -> None:
        """`sections` None: no rule depends on the request, and none has filters. `always`: one rule is for all."""
        self.native = native
        self.places = places
        self.refuses = False  # a refusal was learned
        self.sections = sections
        self.always = always
        self._split = [(section, self._giving(section)) for section in split]
        for section, give_back in self._split:
            section.turns.drawn.append(give_back)

    def refill(self) -> None:
        """Draw turns of each split ahead, by the rules of upstream/balance.py.

        A slow-path request that needs a turn takes the first of them. So each round gives each backend exactly its
        weight, whichever path serves.
        """
        for (number, turns, names), _ in self._split:
            if self.native.turns(number) <= _FEW:
                left = self.native.rest(number)
                more = bytes(names.index(turns.draw()) for _ in range(_ROUND - len(left)))
                self.native.refill(left + more, number)

    def drop(self) -> None:
        """Drop the plan: it is used no more."""
        for section, give_back in self._split:
            section.turns.put_back([section.names[number] for number in self.native.rest(section.number)])
            section.turns.drawn.remove(give_back)
        self._split = []

    def place(self, conn: Conn, pick: Pick, asked: Request) -> Place | None:
        """Return the place of a request for which this was picked; None if it has none here."""
        place: Place | None = Place(0, "", (), pick.endpoint)
        if self.sections is not None:
            assert conn.route is not None
            section = self.sections.get(conn.route.rule(asked))
            place = None if section is None else Place(section, pick.service, pick.filters, pick.endpoint)
        return place if place in self.places else None

    def _giving(self, section: Section) -> Callable[[], str]:
        def give_back() -> str:
            number = self.native.take(section.number)
            return section.names[number] if number >= 0 else ""

        return give_back


class Flows:
    """Plans and targets of the fast path."""

    def __init__(self, context: Context, engine: Engine, links: Links, forget_all: Callable[[], None]) -> None:
        """`forget_all`: forgets also what was learned of streams (path.py)."""
        self._context = context
        self._engine = engine
        self._links = links
        self._forget_all = forget_all
        self._splitting: dict[int, Plan] = {}  # by serial: plans that take turns
        self._plans: dict[tuple[str, str, str, tuple[str, int], bool], Plan | None] = {}
        # By connection: one for callers that speak HTTP/2, one for others, and those of rules
        self._targets: dict[Key, dict[tuple[bool, str | None, tuple[Filter, ...]], Target]] = {}
        self.picks: dict[int, Pick] = {}  # by the target's serial: the decision behind a call to it
        self.pairs: dict[Pair, int] = {}
        self._crowds: dict[str, int] = {}  # by the workload whose connections they are
        self.denials: dict[tuple[str, str], int] = {}  # by flag and detail; in the order of their numbers
        self._lent: dict[int, Upstream] = {}

    def __repr__(self) -> str:
        return f"<Flows {len(self._plans)} plans, targets of {len(self._targets)} connections>"

    def forget(self) -> None:
        """Make everything stale that was learned."""
        self._engine.lane.forget()
        for plan in self._plans.values():
            if plan is not None:
                plan.drop()
        self._plans.clear()
        self._splitting.clear()

    def refill(self) -> None:
        """Give more turns to plans that have few left, before their callers have to wait for Python."""
        for serial in self._engine.lane.dry():
            if (plan := self._splitting.get(serial)) is not None:
                plan.refill()

    def drop_idle(self) -> None:
        """Forget targets without idle connections and without calls in progress."""
        for key, targets in list(self._targets.items()):
            for which in [which for which, target in targets.items() if not (target.resting or target.in_flight)]:
                self.picks.pop(targets.pop(which).serial, None)
            if not targets:
                del self._targets[key]

    def drop_resting(self, addresses: Collection[str], workload: str) -> None:
        """Close idle connections from or to these addresses, or of this workload."""
        gone = frozenset(addresses)
        for key, targets in self._targets.items():
            if _of(key, gone, workload):
                # Calls in progress there are still recorded with the decision that was made for them.
                for target in targets.values():
                    self._engine.lane.clear(target)

    def ended(self, number: int) -> None:
        """Close a lent connection of a server that has ended."""
        upstream = self._lent.pop(number, None)
        if upstream is not None:
            upstream.close()

    def close(self) -> None:
        """Close every lent connection of a server."""
        for upstream in self._lent.values():
            upstream.close()
        self._lent.clear()

    def learn(
        self, conn: Conn, head: RequestHead, sent: bytes, asked: Request, pick: Pick, h2: bool = False
    ) -> tuple[Plan, Target | None] | None:
        """Learn from a request that the slow path served. Return a plan if this connection may be lent, or None.

        `asked`: the request as the caller sent it. `h2`: it is a stream of a caller that speaks HTTP/2. The target is
        that of the request, if there is one.
        """
        plan = self._plan(conn, h2)
        if plan is None:
            return None
        taught, target = self.teach(plan, conn, head, sent, asked, pick)
        return (plan, target) if taught else None

    def teach(
        self, plan: Plan, conn: Conn, head: RequestHead, sent: bytes, asked: Request, pick: Pick
    ) -> tuple[bool, Target | None]:
        """Teach the fast path this decision.

        Return False if the connection must not be lent, and the target of the request, if there is one.
        """
        context = self._context
        place = plan.place(conn, pick, asked)
        if place is None:
            return plan.sections is not None, None
        target = plan.places[place]
        # The fast path has one idle timeout of bodies for all ports. A port with its own timeout is served by Python.
        if context.snapshot.idle_timeout(pick.endpoint) is not None:
            return False, None
        path = head.target.partition(b"?")[0]
        if b"%" in path:
            return True, target  # the fast path decodes no escapes
        if sent != head.target or head.host is None or pick.workload is None or conn.route is None:
            return True, target
        sight = self._sight(conn, pick.workload, pick.endpoint)
        if sight is None or (sight.looks is not None and any(isinstance(one, RequestFields) for one in pick.filters)):
            return True, target  # the filters may change what the rules look at
        # Policy may have changed since the request was decided.
        if not conn.route.still_allows(pick, asked):
            return True, target
        if context.snapshot.authorize(_caller(conn), pick.workload, pick.endpoint.port, asked).trial:
            return True, target  # a call that a dry run counts is recorded one by one
        if conn.route.misdirected(head.host.decode("latin-1")):
            return True, target
        pair = Pair(conn.direction, conn.source, pick.workload, pick.service)
        number = self.pairs.get(pair)
        if number is None:
            if len(self.pairs) >= _MOST_PAIRS:
                return False, None
            number = self.pairs[pair] = len(self.pairs)
        self.picks[target.serial] = pick
        text = None if sight.looks is None else sights.shown(asked)
        self._engine.lane.learn(plan.native, target, number, head.method, path, head.host, text)
        self._teach_rule(plan, place.section, asked)
        return True, target

    def _teach_rule(self, plan: Plan, section: int, asked: Request) -> None:
        if plan.sections is not None and not plan.always:
            self._engine.lane.rule(plan.native, section, sights.shown(asked))

    def learn_refusal(self, conn: Conn, head: RequestHead, sent: bytes, asked: Request) -> None:
        """Learn from a request that policy refused: the fast path may refuse equal ones with the same response."""
        plan = self._plan(conn, False)
        if plan is None or sent != head.target or head.host is None or conn.route is None:
            return
        path = head.target.partition(b"?")[0]
        if b"%" in path:
            return
        if conn.route.misdirected(head.host.decode("latin-1")):
            return
        section = 0 if plan.sections is None else plan.sections.get(conn.route.rule(asked))
        if section is None:
            return
        for place, target in plan.places.items():
            endpoint = place.endpoint
            workload = self._context.snapshot.workload(endpoint.workload)
            if place.section != section or workload is None:
                continue
            sight = self._sight(conn, workload, endpoint)
            if sight is None:
                continue
            # The newest snapshot decides: the refusal may have come from an older one.
            refused = conn.route.refuses(endpoint, asked)
            if refused is not None and not refused.trial and (number := self._denial(refused)) >= 0:
                self.picks.setdefault(target.serial, Pick(endpoint, workload, "", "", True))
                text = None if sight.looks is None else sights.shown(asked)
                self._engine.lane.refuse(plan.native, target, number, head.method, path, head.host, text)
                self._teach_rule(plan, section, asked)
                plan.refuses = True

    def _denial(self, refused: Refused) -> int:
        """Return the number of this response, or -1 when there are too many."""
        key = (refused.flag, refused.detail)
        number = self.denials.get(key)
        if number is None:
            if len(self.denials) >= _MOST_DENIALS:
                return -1
            whole, head = (answer(refused, False, head_only, _ID) for head_only in (False, True))
            again = max(whole.find(_ID.encode(), len(head)), 0)  # in the body, if the id is there too
            number = self.denials[key] = self._engine.lane.denial(whole, len(head), head.index(_ID.encode()), again)
        return number

    def ready(self, conn: Conn, h2: bool = False) -> Plan | None:
        """Return a plan for a connection without requests so far, if others like it taught one; else None."""
        plan = self._plans.get(_key(conn, h2))
        if plan is None or not (
            plan.refuses or any(target.resting or target.linked for target in plan.places.values())
        ):
            return None
        return plan

    def lead(self, conn: Conn, target: Target, pick: Pick, head: RequestHead, h2: bool) -> bool:
        """Let requests for this target use the connection of this request. Return False if that is not possible."""
        context = self._context
        if pick.hop is not None:
            peer = context.peers.existing(conn.workload, pick.hop)
            return peer is not None and self._links.route(target, peer, pick.endpoint, h2)
        if server_speaks_h2(pick, head, h2):
            key = (caller_key(conn, pick.endpoint), conn.workload.key, pick.endpoint)
            if target.resting:
                # The protocol was declared otherwise before: idle connections speak HTTP/1.1.
                self._engine.lane.clear(target)
            return self._links.route_server(target, context.http2_pool.existing(key))
        self.lend(conn, target, pick.endpoint)
        return True

    def lend(self, conn: Conn, target: Target, endpoint: Endpoint) -> None:
        """Lend an idle connection of the server, if there is one."""
        upstream = self._context.pool.take(
            (caller_key(conn, endpoint), conn.workload.key, endpoint), trio.current_time()
        )
        if upstream is None:
            return
        if not isinstance(upstream.stream, trio.SocketStream):
            upstream.close()
            return
        number = self._engine.next_id()
        self._engine.lane.lend(number, upstream.stream.socket.fileno(), target)
        self._lent[number] = upstream

    def resting(self, key: Key) -> Upstream | None:
        """Take an idle connection of a server back for the slow path.

        Where rules do different things with calls to one endpoint, each keeps its own: the slow path asks because one
        of them has none, and would take it from another one, for ever.
        """
        targets = self._targets.get(key, {})
        if len({(service, filters) for _, service, filters in targets}) > 1:
            return None
        for target in targets.values():
            if number := self._engine.lane.reclaim(target):
                return self._lent.pop(number)
        return None

    def pick_of(self, given: Given) -> Pick | None:
        """Return the decision for the request that was in progress."""
        return self.picks.get(given.target)

    def take_back(self, number: int) -> Upstream:
        """Return the server's connection that came back with a response."""
        return self._lent.pop(number)

    def _plan(self, conn: Conn, h2: bool) -> Plan | None:
        key = _key(conn, h2)
        if key in self._plans:
            return self._plans[key]
        if len(self._plans) >= _MOST_PLANS:
            self._forget_all()
        plan = self._plans[key] = self._made(conn, h2)
        return plan

    def plan_of_stream(self, conn: Conn, h2: bool) -> Plan | None:
        """As `_plan`, for a stream: its connection proves the caller, so the plan belongs to that connection alone."""
        return self._made(conn, h2)

    def _made(self, conn: Conn, h2: bool) -> Plan | None:
        route = conn.route
        if route is None:
            return None
        found, ruled = route.spread(), None
        if found is None:
            ruled = route.ruled()
            if ruled is None:
                return None
        if ruled is None:
            assert found is not None
            shares = {0: Share(found.turns, {key: Way("", (), endpoints) for key, endpoints in found.groups.items()})}
        else:
            shares = dict(ruled.shares)
        places: dict[Place, Target] = {}
        groups: list[tuple[tuple[Target, Program | None, Looks | None], ...]] = []
        changed: list[tuple[Change | None, Change | None]] = []
        counts: list[int] = []
        split: list[Section] = []
        sections: dict[int, int] = {}
        seen = Sight(None, None) if ruled is None else sights.sight(ruled.patterns, ruled.looks)
        if seen is None:
            return None
        for number, share in shares.items():
            section = len(counts)
            made = [changes(way.filters) for way in share.ways.values()]
            can = [self._can_serve(conn, endpoint) for way in share.ways.values() for endpoint in way.endpoints]
            if not all(can) or any(one is None for one in made):
                if ruled is None:
                    return None
                continue  # the slow path serves what this rule applies to
            for way in share.ways.values():
                for endpoint in way.endpoints:
                    which = (h2, None if ruled is None else way.service, way.filters)
                    places[Place(section, way.service, way.filters, endpoint)] = self._target(conn, endpoint, which)
            groups += [tuple(self._seats(conn, section, way, places)) for way in share.ways.values()]
            changed += [one for one in made if one is not None]
            counts.append(len(share.ways))
            sections[number] = section
            if share.turns is not None:
                split.append(Section(section, share.turns, list(share.ways)))
            if len(groups) > _MOST_GROUPS or len(places) > _MOST_TARGETS:
                return None
        if not counts:
            return None
        crowd = self._crowds.setdefault(conn.workload.key, len(self._crowds))
        always = ruled is None or ruled.always
        native = self._engine.lane.plan(
            forwarded_for(conn).encode(), tuple(groups), crowd, tuple(changed), bytes(counts), None if always else seen
        )
        plan = Plan(native, places, split, None if ruled is None else sections, always)
        if split:
            self._splitting[native.serial] = plan
        return plan

    def _can_serve(self, conn: Conn, endpoint: Endpoint) -> bool:
        """Return whether the fast path may send calls of this connection to an endpoint."""
        context, route = self._context, conn.route
        workload = context.snapshot.workload(endpoint.workload)
        if workload is None or route is None or endpoint in context.live.breakers:
            return False
        return workload.key in context.captured or route.crosses(workload, endpoint)

    def _target(self, conn: Conn, endpoint: Endpoint, which: tuple[bool, str | None, tuple[Filter, ...]]) -> Target:
        targets = self._targets.setdefault((caller_key(conn, endpoint), conn.workload.key, endpoint), {})
        target = targets.get(which)
        if target is None:
            target = targets[which] = self._engine.lane.target()
        return target

    def _seats(
        self, conn: Conn, section: int, way: Way, places: Mapping[Place, Target]
    ) -> Iterator[tuple[Target, Program | None, Looks | None]]:
        for endpoint in way.endpoints:
            workload = self._context.snapshot.workload(endpoint.workload)
            sight = None if workload is None else self._sight(conn, workload, endpoint)
            target = places[Place(section, way.service, way.filters, endpoint)]
            yield (target, None, None) if sight is None else (target, *sight)

    def _sight(self, conn: Conn, workload: Workload, endpoint: Endpoint) -> Sight | None:
        """Return which requests get the same decision for this endpoint. None: the slow path looks at each."""
        snapshot, caller = self._context.snapshot, _caller(conn)
        return sights.sight(
            snapshot.path_patterns(caller, workload, endpoint.port), snapshot.looks(caller, workload, endpoint.port)
        )


def _key(conn: Conn, h2: bool) -> tuple[str, str, str, tuple[str, int], bool]:
    return (
        conn.direction,
        conn.workload.key,
        forwarded_for(conn) if conn.direction == "inbound" else conn.peer[0],
        conn.dialled,
        h2,
    )


def _of(key: Key, addresses: frozenset[str], workload: str) -> bool:
    """Return whether the key leads from or to one of these addresses, or comes from this workload."""
    return key[0] in addresses or key[2].address in addresses or workload in (key[1], key[2].workload)


def _caller(conn: Conn) -> Identity | None:
    """Return the caller's identity by the newest snapshot, as the routes see it."""
    if conn.direction == "inbound":
        return conn.identity
    workload = conn.context.snapshot.workload(conn.workload.key)
    return workload.identity if workload else None
