"""When one request is attempted again: after which failures, how often, after which wait, and with which body."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

import trio

from nodeproxy.codec.message import IDEMPOTENT, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick
from nodeproxy.protocols.http.interfaces import Server
from nodeproxy.telemetry.record import Record
from nodeproxy.upstream.retry_budget import BODY, RetryBudget
from policy.model import Endpoint
from policy.route import Failure, Retry

# What a failure means before there is a connection to the server, and by the word of another node.
_BEFORE: dict[str, Failure] = {
    "connect-failed": "connect",
    "connect-timeout": "connect",
    "node-unreachable": "connect",
    "peer-lost": "connect",
    "tls-failed": "connect",
}
_TOLD: dict[str, Failure] = {**_BEFORE, "upstream-broken": "reset", "response-timeout": "timeout"}
_GRPC_STATUS = b"grpc-status"


class Again(Exception):  # noqa: N818 - it is no fault
    """The attempt failed, and another one is made."""


class Retries:
    """The attempts of one request. `with` it: what it took of the budget is given back."""

    __slots__ = (
        "_budget",
        "_caller",
        "_head",
        "_held",
        "_holds",
        "_record",
        "_service",
        "_shares",
        "body",
        "deadline",
        "retry",
        "spoken",
        "tried",
        "wait",
    )

    def __init__(
        self, retry: Retry, head: RequestHead, record: Record, pick: Pick, caller: str, budget: RetryBudget
    ) -> None:
        """`pick`: the first decision. `caller`: the key of the workload that sends the request."""
        self.retry = retry
        self.tried: list[Endpoint] = []
        self.deadline = math.inf  # of the attempt, by trio's clock
        self.spoken = False  # interim responses went to the caller that another server would not repeat
        self.wait = 0.0  # seconds before the next attempt
        # What has arrived of the request's body; None: not kept, because it is or may become too large
        self.body: bytearray | None = bytearray() if head.length <= BODY else None
        self._held = 0  # bytes of it that the budget knows
        self._head = head
        self._record = record
        self._service = pick.service
        # The number of an UpstreamTrafficSetting counts in the place of the share
        self._shares = pick.upstream is None or pick.upstream.max_retries is None
        self._caller = caller
        self._budget = budget
        self._holds = False  # a retry is under way

    def __repr__(self) -> str:
        return f"<Retries {self._record.retries}/{self.retry.attempts} to {self._service}>"

    def __enter__(self) -> Self:
        self._budget.began(self._service)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        self._give()
        self._budget.ended(self._service)

    def keep(self, piece: bytes) -> None:
        """Keep a piece of the request's body, if there is room for it."""
        body = self.body
        if body is None:
            return
        if len(body) + len(piece) > BODY or not self._budget.hold(self._caller, len(piece)):
            self.forget()
            return
        self._held += len(piece)
        body += piece

    def forget(self) -> None:
        """Keep nothing of the body any more."""
        self.body = None
        self._budget.release(self._caller, self._held)
        self._held = 0

    def after_failure(self, refused: Refused, upstream: Server | None, left: float, room: bool) -> bool:
        """Return whether another attempt is made after a failure.

        `upstream` None: there was no connection to a server yet. `left`: seconds that the request still has. `room`:
        the bounds of the Service admit a retry.
        """
        return self._goes_on(self._failure(refused.flag, upstream), left, room)

    def after_response(self, response: ResponseHead, left: float, room: bool) -> bool:
        """Return whether another attempt is made in the place of this response."""
        if response.told and (told := _TOLD.get(response.told)) is not None:
            return self._goes_on(self._allowed(told), left, room)
        denied = response.told and response.status < 500  # the other node's policy: it would say the same again
        final = denied or not (response.status in self.retry.statuses or self._fails(response))
        if not final:
            return self._goes_on(True, left, room)
        if self._record.retries:
            self._record.retried = "success"
        return False

    def begins(self, timeout: float | None) -> None:
        """Begin an attempt, which may take so many seconds until its response."""
        self.deadline = math.inf if timeout is None else trio.current_time() + timeout

    def _failure(self, flag: str, upstream: Server | None) -> bool:
        if upstream is None:
            late = flag == "route-timeout" and "timeout" in self.retry.failures  # nothing was sent
            return late or (flag in _BEFORE and self._allowed("connect"))
        if flag == "route-timeout":
            return self._allowed("timeout")
        return flag == "upstream-broken" and self._allowed("refused" if upstream.unprocessed else "reset")

    def _allowed(self, failure: Failure) -> bool:
        """Return whether the policy has a request sent again after this, and it may be.

        RFC 9110 section 9.2.2: what may have had an effect is repeated only if the method is idempotent, or if somebody
        knows that it does no harm: the policy says so.
        """
        begun = failure in ("reset", "timeout")
        return failure in self.retry.failures and (
            not begun or self.retry.any_method or self._head.method in IDEMPOTENT
        )

    def _fails(self, response: ResponseHead) -> bool:
        """Return whether the head of the response says that a call of gRPC has failed so that it is sent again."""
        if not self.retry.grpc:
            return False
        for line in response.lines:
            name, _, value = line.partition(b":")
            if name.strip().lower() == _GRPC_STATUS:
                value = value.strip()
                return len(value) <= 3 and value.isdigit() and int(value) in self.retry.grpc
        return False

    def _goes_on(self, wanted: bool, left: float, room: bool) -> bool:
        record, retry = self._record, self.retry
        self._give()
        if not wanted or self.spoken:
            return False
        if record.retries >= retry.attempts:
            record.retried = "limit"
            return False
        longest = retry.least + (2.0 ** (record.retries + 1) - 1) * retry.backoff
        if retry.most is not None:
            longest = min(longest, retry.most)
        wait = self._budget.between(min(retry.least, longest), longest)
        if wait >= left:  # it would only be cut
            return False
        if not room or (self._shares and not self._budget.take(self._service)):
            record.retried = "overflow"
            return False
        self._holds = self._shares
        record.retries += 1
        self.wait = wait
        return True

    def _give(self) -> None:
        if self._holds:
            self._holds = False
            self._budget.give(self._service)
