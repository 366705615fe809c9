"""The route model: what becomes of a call to a Service.

Every dialect is translated into it. Nothing else decides routing.

The endpoints of a Service serve its calls if it has no Route. Of several Routes the first that holds for the dialled
port and for the caller counts. A Route is a list of rules in order of precedence: the first rule that has a fitting
match decides. A call that no rule fits goes to the Service's own endpoints (SMI N20, N27). A dialect that treats these
calls differently ends its list with a rule that fits everything.

A Route says where a call goes, never whether it may: grants decide that (authz.py), after an endpoint was chosen.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct


class Exact(Struct, frozen=True, tag=True):
    """Fits exactly this text."""

    value: str


class Prefix(Struct, frozen=True, tag=True):
    """Fits this path and every path below it: "/a" fits "/a", "/a/" and "/a/b", but not "/ab"."""

    value: str


class Regex(Struct, frozen=True, tag=True):
    """A pattern in RE2 syntax.

    For a path it is anchored at the beginning but not at the end; in a field's value it is searched.
    """

    value: str


class HttpMatch(Struct, frozen=True):
    """The HTTP requests for which all of this holds. `path` None: any path; `methods` (): any method.

    Grants have such matches too: they say which requests are admitted.
    """

    name: str
    path: Exact | Prefix | Regex | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, Exact | Regex], ...] = ()  # lower-case name of a field, and its value
    query: tuple[tuple[str, Exact | Regex], ...] = ()  # name of a parameter, and its first value, both without escapes
    also: tuple[Exact | Prefix | Regex, ...] = ()  # the path fits these too, beside `path`


class Filter(Struct, frozen=True, tag=True):
    """What a rule does to a request or to its response on the way.

    Each filter is a subclass with hashable fields. nodeproxy/protocols/http/filters.py makes the acting filter from it.
    """

    # The filter changes neither request nor response, and admits every request of a caller, or none, whatever the
    # request contains. So an admitted call may be repeated without the filter.
    replayable: ClassVar[bool] = False
    # The filter responds in the place of a server: its rule names no backend.
    answers: ClassVar[bool] = False
    # The filter responds to the question of a browser whether a page of another origin may call (a CORS preflight): it
    # comes to no server, and so no grant has to admit it.
    preflights: ClassVar[bool] = False
    # The filter keeps requests from the server: none may come past it by a path that its rule reads in another way.
    guards: ClassVar[bool] = False


class Fields(Struct, frozen=True):
    """Changes of a message's fields, in this order; names are in lower case."""

    set: tuple[tuple[str, str], ...] = ()  # in the place of all fields of that name
    add: tuple[tuple[str, str], ...] = ()  # beside those of that name
    remove: tuple[str, ...] = ()


class RequestFields(Filter, frozen=True):
    """Changes fields of the request."""

    change: Fields


class ResponseFields(Filter, frozen=True):
    """Changes fields of the server's response."""

    change: Fields


class PathChange(Struct, frozen=True):
    """Another path: `value` in the place of all of it, or of the `prefix` with which it begins."""

    value: str
    prefix: str | None = None  # None: all of the path

    def of(self, path: str) -> str:
        """Return what becomes of a path without its query."""
        if self.prefix is None:
            return self.value or "/"
        rest = path[len(self.prefix.rstrip("/")) :]
        return (self.value.rstrip("/") + rest if rest else self.value) or "/"


class Rewrite(Filter, frozen=True):
    """Sends another path or Host to the server. The query stays."""

    path: PathChange | None = None  # None: it stays
    host: str = ""  # "": it stays


class Redirect(Filter, frozen=True):
    """Responds that the caller should ask there. What is not said stays as the caller wrote it."""

    answers = True

    status: int = 302
    scheme: str = ""
    host: str = ""
    port: int = 0  # 0: the scheme's own, if a scheme is said; else the one that the caller wrote
    path: PathChange | None = None


class RequestMirror(Filter, frozen=True):
    """Sends a copy of the request to another Service too, as the caller, which neither waits for it nor hears of it.

    The caller has to be allowed to call that Service. `part` of each `whole` requests are copied.
    """

    service: str  # key; there may be no such Service
    port: int  # of that Service
    part: int = 100
    whole: int = 100


class Cors(Filter, frozen=True):
    """Says which origins may read the responses, in browsers, and responds to their preflights. "*" alone: all."""

    preflights = True

    origins: tuple[str, ...] = ()  # as "https://shop.example"; a host may begin with "*"
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()  # of requests
    expose: tuple[str, ...] = ()  # of responses
    credentials: bool = False
    max_age: int = 5  # seconds


class Fault(Filter, frozen=True):
    """Makes some calls late, and refuses some: what a caller does about it is to be seen. Percentages of all calls."""

    delay: float = 0.0  # seconds
    delayed: int = 100  # percent
    status: int = 0  # of the response in the place of the server's; 0: no call is refused
    aborted: int = 100  # percent


class Degrade(Filter, frozen=True):
    """Responds in the place of the server."""

    answers = True
    guards = True

    status: int = 503
    body: str = ""
    fields: tuple[tuple[str, str], ...] = ()


class Signature(Struct, frozen=True):
    """What is signed: method, target, these fields, the body. `key` names it: "shop/till"; only a node knows it."""

    key: str
    fields: tuple[str, ...] = ()  # in lower case
    body: bool = False
    field: str = "x-signature"  # that holds the signature
    age: float = 300.0  # seconds for which a signature is good


class Sign(Filter, frozen=True):
    """Signs the request as it is at this point: the server can tell that it came this way."""

    what: Signature


class Verify(Filter, frozen=True):
    """Refuses (401) a request without a good signature."""

    guards = True

    what: Signature


class ExternalAuth(Filter, frozen=True):
    """Asks a Service whether the request may pass, as the caller. What it refuses, it answers.

    `open`: a request passes when the Service does not answer; it never passes when policy forbids the question.
    """

    guards = True

    service: str  # key
    port: int
    path: str = ""  # put before the request's own
    timeout: float = 5.0  # seconds
    open: bool = False
    sent: tuple[str, ...] = ()  # fields of the request that it gets, beside Host and Authorization; in lower case
    taken: tuple[str, ...] = ()  # fields of its response that the server gets, in the place of the caller's


class User(Filter, frozen=True):
    """Gives the request's head to Python of the node that the caller runs on, by the name in its NodeConfig."""

    guards = True

    name: str


# All of them: what Rule and Backend may hold.
AnyFilter = (
    RequestFields
    | ResponseFields
    | Rewrite
    | Redirect
    | RequestMirror
    | Cors
    | Fault
    | Degrade
    | Sign
    | Verify
    | ExternalAuth
    | User
)


class Backend(Struct, frozen=True):
    """A Service that receives a share of the calls: its weight over the sum of those that can take the call.

    `strict`: its share of the calls is refused while it cannot take them, and goes to no other backend.
    """

    service: str  # key; there may be no such Service (yet)
    weight: int
    port: int = 0  # of that Service; 0: the port that was dialled
    filters: tuple[AnyFilter, ...] = ()  # of calls that it gets, behind those of the rule
    strict: bool = False
    number: int = 0  # tells backends of a rule apart that are one Service

    @property
    def key(self) -> str:
        return f"{self.service}#{self.number}" if self.number else self.service


class Timeouts(Struct, frozen=True):
    """Timeouts in seconds, in the place of the node's limit on the wait for a response. None: there is none."""

    request: float | None = None  # from the request's head to the response's last byte, over all attempts
    attempt: float | None = None  # of each attempt


# What a request fails by before it has a response. "connect": it was not sent, because no connection came about;
# "refused": the server said that it did not process it; "reset": the server closed or broke the connection; "timeout":
# an attempt took longer than it may.
Failure = Literal["connect", "refused", "reset", "timeout"]
FAILURES: tuple[Failure, ...] = ("connect", "refused", "reset", "timeout")


class Retry(Struct, frozen=True):
    """When a request is sent again. It never is once bytes of its response went to the caller.

    Before retry N a time is waited that is chosen by chance, between `least` and `least` + (2**N - 1) * `backoff`
    seconds, and never more than `most`.
    """

    attempts: int  # beside the first one
    statuses: tuple[int, ...] = ()  # of responses that are no final answer, whatever the method of the request
    backoff: float = 0.0  # seconds
    least: float = 0.0  # seconds
    most: float | None = None  # seconds; None: it is not bounded
    failures: tuple[Failure, ...] = FAILURES
    # False: what may have had an effect ("reset", "timeout") is repeated only where the method is idempotent
    any_method: bool = False
    grpc: tuple[int, ...] = ()  # statuses of gRPC, in the head of a response that has no messages
    timeout: float | None = None  # seconds for each attempt; None: as Timeouts say
    name: str = ""  # the object that says it, if it is not the Route's: "Retry curl/retry"


class Rule(Struct, frozen=True):
    """What becomes of a call that one of `matches` fits.

    `matches` None: every call, including a stream that is no HTTP request. Without `backends` one of its filters responds,
    or the call is refused. `refuses`: such calls are refused with this
    flag of nodeproxy/errors.py, for the reason `detail`.
    """

    backends: tuple[Backend, ...]
    matches: tuple[HttpMatch, ...] | None = None
    filters: tuple[AnyFilter, ...] = ()
    timeouts: Timeouts | None = None
    retry: Retry | None = None
    name: str = ""  # where it is said, if the Route has several rules: "HTTPRoute shop/stock, rule 2"
    refuses: Literal["", "no-route", "bad-route"] = ""
    detail: str = ""
    unresolved: str = ""  # if it refuses for an object that is not there: the word for that in the Route's status


class Route(Struct, frozen=True):
    """All rules for calls to one Service, or to one port of it, or of callers of one namespace."""

    name: str  # the objects that define it: "TrafficSplit bookstore/bookstore-split"
    rules: tuple[Rule, ...]
    port: int = 0  # 0: all ports
    callers: str = ""  # namespace of the callers that it holds for; "": all

    def holds(self, port: int, caller: str) -> bool:
        """Return whether it holds for calls to this port from this namespace."""
        return self.port in (0, port) and self.callers in ("", caller)
