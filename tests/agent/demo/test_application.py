"""The client that applications call with, and its tally."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

from agent.demo.application import Answer, Application, Caller, Tally


def test_a_caller_keeps_its_connection(serve):
    tally, callers = Tally(), set()

    class Watching(Application):
        def raw(self) -> dict[str, int]:
            return {}

        def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
            callers.add(threading.get_ident())  # one thread per connection
            return Answer()

    with contextlib.closing(Caller(serve(Watching()))) as caller:
        for _ in range(3):
            assert caller.call(tally, "GET", "/", {}) is not None
    assert tally.calls == 3
    assert len(callers) == 1


def test_a_call_that_finds_nobody_is_failed_not_refused():
    tally = Tally()
    with contextlib.closing(Caller("127.0.0.1:9")) as caller:  # discard: nobody listens
        assert caller.call(tally, "GET", "/", {}) is None
    report = tally.report()
    assert (report["refused"], report["failed"]) == (0, 1)
    assert "refused" in str(report["last"])
