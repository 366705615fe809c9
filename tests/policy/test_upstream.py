"""upstream.py: which bounds make the caller's node count each request."""

import pytest

from policy.upstream import Circuit, Rate, RequestRate, ServiceBounds


@pytest.mark.parametrize(
    ("bounds", "counts"),
    [
        ({}, False),
        ({"connection_rate": Rate(1, 1)}, False),
        ({"request_rates": (RequestRate(Rate(1, 1)),)}, False),
        ({"connect_timeout": 1.0}, False),
        ({"max_connections": 1}, True),
        ({"max_requests": 1}, True),
        ({"max_per_connection": 1}, True),
        ({"circuit": Circuit(60, 1, 60)}, True),
    ],
)
def test_what_counts_calls(bounds, counts):
    assert ServiceBounds("u", **bounds).counts_calls is counts
