"""VIEWS: every page of the admin API, as a function of the daemon's state. Adding a page is a function and a row."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from agent import explain, status
from agent.httpd import Ask, Handler, Reply, failure, json_reply
from agent.identity import concerns
from agent.metrics import CONTENT_TYPE
from agent.refusals import MOST
from agent.status import Daemon
from policy.model import Revoked
from policy.snapshot import Snapshot

View = Callable[[Daemon, Ask], Awaitable[Reply]]

_NO_POLICY = "no policy has been read yet"


async def ready(daemon: Daemon, _: Ask) -> Reply:
    """200 once policy is enforced on this node, 503 until then."""
    if daemon.enforcing:
        return json_reply({"ready": True})
    return failure(503, "the node's workloads are not all captured yet" if daemon.published else _NO_POLICY, "edgemesh status says more")


async def status_page(daemon: Daemon, _: Ask) -> Reply:
    return json_reply(status.status(daemon, time.time()))


async def routes(daemon: Daemon, _: Ask) -> Reply:
    snapshot = _snapshot(daemon)
    return json_reply(status.routes(snapshot)) if snapshot else failure(503, _NO_POLICY)


async def connections(daemon: Daemon, _: Ask) -> Reply:
    return json_reply(status.connections(daemon.conns.values(), time.time(), daemon.lane))


async def problems(daemon: Daemon, _: Ask) -> Reply:
    return json_reply([status.problem(item) for item in sorted(daemon.problems)])


async def snapshot_page(daemon: Daemon, _: Ask) -> Reply:
    """The snapshot's own bytes: what every decision is made from."""
    snapshot = _snapshot(daemon)
    if snapshot is None:
        return failure(503, _NO_POLICY)
    # It is frozen, so a thread may encode it: a large one would hold the loop for tens of milliseconds.
    return Reply(await trio.to_thread.run_sync(msgspec.json.encode, snapshot))


async def explain_page(daemon: Daemon, ask: Ask) -> Reply:
    snapshot = _snapshot(daemon)
    if snapshot is None:
        return failure(503, _NO_POLICY)
    try:
        return json_reply(explain.answer(snapshot, explain.question(ask)))
    except explain.Unclear as unclear:
        return failure(404, str(unclear), unclear.hint)


async def refusals(daemon: Daemon, ask: Ask) -> Reply:
    """What this node remembers of one refusal."""
    request_id = ask.get("id")
    found = daemon.refusals.find(request_id)
    if found:
        return json_reply(found)
    hint = f"node {daemon.config.node} remembers the last {MOST}; ask the other nodes that the request passed"
    return failure(404, f"no refusal with the id {request_id[:64]!r} here", hint)


async def certs(daemon: Daemon, _: Ask) -> Reply:
    """Certificates and roots that this node holds, and who is revoked."""
    snapshot = _snapshot(daemon)
    revoked = snapshot.revoked if snapshot else Revoked()
    names = {"nodes": revoked.nodes, "identities": tuple(map(str, revoked.identities)), "serials": revoked.serials}
    return json_reply({**concerns.document(daemon.keeper), "revoked": names})


async def metrics(daemon: Daemon, _: Ask) -> Reply:
    return Reply(daemon.metrics.text(), content_type=CONTENT_TYPE)


async def update(daemon: Daemon, ask: Ask) -> Reply:
    """Hand over to a release that was staged (agent/ota/releases.py); which, is in `release`."""
    from agent.ota.change import ChangeError, take_up

    try:
        return json_reply({"version": await take_up(daemon, ask.get("release"))})
    except ChangeError as error:
        return failure(409, str(error), error.hint)


async def unit(daemon: Daemon, ask: Ask) -> Reply:
    """How the capture of a systemd unit stands; which of its cgroups is meant is in `cgroup`."""
    number = ask.get("cgroup")
    if not daemon.enforcing:
        return failure(503, _NO_POLICY)
    known, captured, wrong = daemon.unit(ask.get("name"), int(number) if number.isascii() and number.isdigit() else 0)
    return json_reply({"known": known, "captured": captured, "detail": wrong or "the daemon has not seen its cgroup yet"})


VIEWS: dict[str, View] = {
    "/ready": ready,
    "/status": status_page,
    "/unit": unit,
    "/routes": routes,
    "/connections": connections,
    "/problems": problems,
    "/snapshot": snapshot_page,
    "/explain": explain_page,
    "/refusals": refusals,
    "/certs": certs,
    "/metrics": metrics,
}

# What changes something; by POST, and on the admin socket only.
ACTIONS: dict[str, View] = {
    "/update": update,
}

# What anybody on this box may ask over TCP: no names of files, no policy.
PUBLIC = ("/metrics", "/ready")


def handler(daemon: Daemon, paths: tuple[str, ...] = tuple(VIEWS), actions: tuple[str, ...] = ()) -> Handler:
    """Answers `paths` and, by POST, `actions` for httpd.serve."""

    async def answer(ask: Ask) -> Reply:
        if ask.method == "POST":
            if ask.path not in actions:
                return failure(405, f"nothing can be done at {ask.path}, only read")
            return await ACTIONS[ask.path](daemon, ask)
        if ask.path not in paths:
            return failure(404, f"no page {ask.path}", f"there are {' '.join(paths)}")
        return await VIEWS[ask.path](daemon, ask)

    return answer


def _snapshot(daemon: Daemon) -> Snapshot | None:
    return daemon.published.snapshot if daemon.published else None
