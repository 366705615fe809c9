"""The fast path's view of a request, as values of the slow path."""

from __future__ import annotations

from nodeproxy.codec.http1 import Incoming
from nodeproxy.limits import Limits
from nodeproxy.telemetry.record import HOST_SHOWN
from policy.model import Request

_PATH_SHOWN = 256  # characters of a path in a record


def shown(line: bytes) -> tuple[str, str, str]:
    """Return method, path and Host, as records show them. `line`: a request line, a newline, and the Host."""
    asked, _, host = line.decode("latin-1").partition("\n")
    method, target, _ = asked.split(" ")
    return method, target.partition("?")[0][:_PATH_SHOWN], host[:HOST_SHOWN]


def request_of(head: bytes, limits: Limits) -> Request:
    """Return a request as policy sees it. `head`: the whole head that the fast path has sent on."""
    incoming = Incoming("bad-request")
    incoming.feed(head)
    read = incoming.request_head(limits)
    assert read is not None, "the lane sends whole heads on"
    path = read.target.partition(b"?")[0].decode("latin-1")
    return Request(read.method.decode("latin-1"), path, read.fields, (), read.target)


def of_endpoint(flag: str, name: str, detail: str) -> str:
    """Return the detail of a refusal. It names the endpoint `name` where the server is the cause."""
    if not detail or flag != "upstream-broken":
        return detail
    return name + detail if detail[0] == ":" else f"{name} {detail}"
