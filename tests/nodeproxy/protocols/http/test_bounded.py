"""bounded.py: the response to a request that comes too soon."""

import types

import pytest

from nodeproxy.codec.local_reply import Answered
from nodeproxy.interfaces import Pick
from nodeproxy.protocols.http import bounded
from nodeproxy.upstream.rates import Rates
from policy.model import Endpoint, Request
from policy.upstream import Rate, RequestRate, ServiceBounds


async def test_the_refusal_has_the_status_and_fields_of_the_rate():
    conn = types.SimpleNamespace(context=types.SimpleNamespace(rates=Rates()))
    said = RequestRate(Rate(1, 0.01), None, 420, (("hello", "world"),), "httpRoutes[0]")
    pick = Pick(
        Endpoint("10.0.0.1", 80, "a/b"), None, "", "", True, bounds=(ServiceBounds("u", request_rates=(said,)),)
    )
    bounded.take(conn, pick, Request("GET", "/"))
    with pytest.raises(Answered) as refused:
        bounded.take(conn, pick, Request("GET", "/"))
    assert (refused.value.flag, refused.value.status) == ("rate-limited", 420)
    assert refused.value.fields == [(b"hello", b"world")]
    assert refused.value.detail == "u, httpRoutes[0]"
