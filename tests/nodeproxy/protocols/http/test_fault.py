"""fault.py: shares of calls are late or fail; over sockets: journeys/test_http_filters.py."""

from __future__ import annotations

import pytest
import trio

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead
from nodeproxy.protocols.http.fault import Degrades, Faults
from policy.route import Degrade, Fault

HEAD = RequestHead(b"GET", b"/", 1)


async def test_delays_and_failures(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(Answered) as caught:
        await Faults(Fault(20.0, 100, 503, 100)).request(HEAD)
    assert (trio.current_time() - began, caught.value.status) == (20.0, 503)
    await Faults(Fault(20.0, 0, 503, 0)).request(HEAD)
    assert trio.current_time() - began == 20.0


def test_an_answer_that_is_none_is_not_made() -> None:
    for wrong in (Degrade(204, "body"), Degrade(503, "", (("host", "a"),)), Degrade(100)):
        with pytest.raises(ValueError, match="is"):
            Degrades(wrong)


async def test_an_answer_says_what_it_is() -> None:
    for config, told in (
        (Degrade(200, "a"), [(b"content-type", b"text/plain; charset=utf-8")]),
        (Degrade(200, "a", (("content-type", "a/b"),)), [(b"content-type", b"a/b")]),
        (Degrade(200), []),
    ):
        with pytest.raises(Answered) as caught:
            await Degrades(config).request(HEAD)
        assert caught.value.fields == told
