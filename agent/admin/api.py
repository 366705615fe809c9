"""VIEWS: every page of the admin API, as a function of the daemon's state. A new page is a function and a row."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from agent.admin import explain, explain_entering, status
from agent.admin.bearer import BearerToken
from agent.admin.daemon import Daemon, UpdateError
from agent.admin.viewers import Viewers
from agent.http.server import Handler, HttpRequest, HttpResponse, failure, json_reply
from agent.identity.node import report
from agent.telemetry.metrics import CONTENT_TYPE
from agent.telemetry.recent_denials import MOST
from policy.model import Revoked
from policy.snapshot import Snapshot

View = Callable[[Daemon, HttpRequest], Awaitable[HttpResponse]]

_RELEASE = 8.0  # seconds; the command line waits ten
_NO_POLICY = "no policy has been read yet"


async def ready(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """Status 200 while policy is enforced on this node; 503 before that, and while something is not captured."""
    if daemon.state == "enforcing":
        return json_reply({"ready": True})
    if daemon.state == "degraded":
        return failure(503, "degraded: a workload of this node is not captured", "edgemesh status says which, and why")
    return failure(
        503,
        "starting: the node's workloads are not all captured yet" if daemon.published else _NO_POLICY,
        "edgemesh status says more",
    )


async def status_page(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """Node, mode, workloads and their capture, other nodes, what is not covered, problems: `edgemesh status`."""
    return json_reply(status.status(daemon, time.time()))


async def routes(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """Services with their addresses, ports, endpoints and splits, and their permitted callers: `edgemesh routes`."""
    snapshot = _snapshot(daemon)
    return json_reply(status.routes(snapshot)) if snapshot else failure(503, _NO_POLICY)


async def connections(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """The open connections: `edgemesh connections`."""
    return json_reply(status.connections(daemon.conns.values(), time.time(), daemon.fast))


async def problems(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """What is wrong in the manifests and on the node, as in `/status`."""
    return json_reply(status.problems(daemon.problems))


async def snapshot_page(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """The policy snapshot: the input of every decision."""
    snapshot = _snapshot(daemon)
    if snapshot is None:
        return failure(503, _NO_POLICY)
    # The snapshot is frozen, so a thread may encode it: a large one would hold the loop for tens of milliseconds.
    return HttpResponse(await trio.to_thread.run_sync(msgspec.json.encode, snapshot))


async def explain_page(daemon: Daemon, ask: HttpRequest) -> HttpResponse:
    """Whether `src` may call `dst`, and by which rule.

    Other parameters: `port`, `method`, `path`, `header` (NAME:VALUE, repeatable), `udp`; `outside` in the place of
    `src`. All mean what the arguments of `edgemesh explain` mean.
    """
    snapshot = _snapshot(daemon)
    if snapshot is None:
        return failure(503, _NO_POLICY)
    try:
        return json_reply(explain_entering.answer(snapshot, explain.question(ask)))
    except explain.Unclear as unclear:
        return failure(404, str(unclear), unclear.hint)


async def refusals(daemon: Daemon, ask: HttpRequest) -> HttpResponse:
    """This node's record of the refusal whose `x-edgemesh-request` is `id`: `edgemesh explain --request`."""
    request_id = ask.get("id")
    found = daemon.refusals.find(request_id)
    if found:
        return json_reply(found)
    hint = f"node {daemon.config.node} remembers the last {MOST}; ask the other nodes that the request passed"
    return failure(404, f"no refusal with the id {request_id[:64]!r} here", hint)


async def certs(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """The certificates and roots that this node holds, and what is revoked: `edgemesh certs`."""
    snapshot = _snapshot(daemon)
    revoked = snapshot.revoked if snapshot else Revoked()
    names = {"nodes": revoked.nodes, "identities": tuple(map(str, revoked.identities)), "serials": revoked.serials}
    return json_reply({**report.document(daemon.keeper), "revoked": names})


async def metrics(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """Metrics in Prometheus' text format."""
    await trio.to_thread.run_sync(getattr, daemon.metrics, "registry")  # the first time, that imports a library
    return HttpResponse(daemon.metrics.text(), content_type=CONTENT_TYPE)


async def update(daemon: Daemon, ask: HttpRequest) -> HttpResponse:
    """Hand over to the staged release whose directory name is `release`: the last step of `edgemesh update`."""
    try:
        return json_reply({"version": await daemon.update(ask.get("release"))})
    except UpdateError as error:
        return failure(409, str(error), error.hint)


async def release(daemon: Daemon, ask: HttpRequest) -> HttpResponse:
    """Release what stays in force though no manifest says it any more, by its `name`: `edgemesh release`."""
    name = ask.get("name")
    with trio.move_on_after(_RELEASE):
        if released := await daemon.release(name):
            return json_reply({"released": released})
        return failure(
            404,
            f"nothing is kept under the name {name[:200]!r}",
            "edgemesh status lists what is, and how each is named",
        )
    return failure(503, "the policy without it is not in force yet", "ask again")


async def unit(daemon: Daemon, ask: HttpRequest) -> HttpResponse:
    """Whether the systemd unit `name` is captured; `cgroup`: the inode of the cgroup that is meant: `edgemesh wait`."""
    number = ask.get("cgroup")
    if not daemon.settled:
        return failure(503, _NO_POLICY)
    known, captured, wrong = daemon.unit(ask.get("name"), int(number) if number.isascii() and number.isdigit() else 0)
    return json_reply(
        {"known": known, "captured": captured, "detail": wrong or "the daemon has not seen its cgroup yet"}
    )


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

# Requests that change something: by POST, and on the admin socket only.
ACTIONS: dict[str, View] = {
    "/update": update,
    "/release": release,
}

# Pages over TCP, for clients that show the token: no file names, no policy. Other clients learn only whether the node
# is ready, as a load balancer and the kubelet ask.
SCRAPED = ("/metrics", "/ready")


async def live(_: Daemon, __: HttpRequest) -> HttpResponse:
    """Status 200: the daemon runs, and its loop goes round."""
    return json_reply({"live": True})


async def settled(daemon: Daemon, _: HttpRequest) -> HttpResponse:
    """Status 200 once all workloads of this node were looked at, and those captured that can be; 503 before that."""
    done = daemon.state != "starting"
    return json_reply({"settled": done}, 200 if done else 503)


# What is told over TCP to whoever asks, where healthAddress of the NodeConfig is: for a kubelet's probes.
HEALTH: dict[str, View] = {"/live": live, "/settled": settled}


def health(daemon: Daemon) -> Handler:
    """Return the handler of HEALTH, for agent.http.server."""

    async def answer(ask: HttpRequest) -> HttpResponse:
        view = HEALTH.get(ask.path)
        return await view(daemon, ask) if view else failure(404, "no such page", f"there are {' '.join(HEALTH)}")

    return answer


# Pages for those who come through the API server of a cluster, with a token of edgemesh-viewer. Not /snapshot, which is
# everything that policy says and may be large, nor /unit.
VIEWED = ("/ready", "/status", "/routes", "/connections", "/problems", "/explain", "/refusals", "/certs", "/metrics")


def viewed(daemon: Daemon, viewers: Viewers, source: str) -> Handler:
    """Return the handler of VIEWED for one connection, for agent.http.server. `source`: its address."""
    answer = handler(daemon, VIEWED)

    async def guarded(ask: HttpRequest) -> HttpResponse:
        return await viewers.refusal(ask.token, source) or await answer(ask)

    return guarded


def scraped(daemon: Daemon, token: BearerToken) -> Handler:
    """Return the handler of SCRAPED, for agent.http.server."""
    answer = handler(daemon, SCRAPED)

    async def guarded(ask: HttpRequest) -> HttpResponse:
        if token.accepts(ask.authorization):
            return await answer(ask)
        if ask.path == "/ready":
            status = (await answer(ask)).status
            return json_reply({"ready": status == 200}, status)
        return HttpResponse(json_reply({"error": "a bearer token is needed"}).body, 401, challenge="Bearer")

    return guarded


def handler(daemon: Daemon, paths: tuple[str, ...] = tuple(VIEWS), actions: tuple[str, ...] = ()) -> Handler:
    """Return the handler of `paths` and, by POST, `actions`, for agent.http.server."""

    async def answer(ask: HttpRequest) -> HttpResponse:
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
