"""explain_outside.py: the verdict of the data plane, and what the nearest Egress lacks, in words."""

import pytest

from policy.explain_outside import explain_outside
from policy.model import EgressGrant, Mesh, Request, Workload
from policy.route import HttpMatch, Regex
from policy.snapshot import Snapshot

TILL = Workload("shop", "till-1", "till", ("10.0.0.1",))
OTHER = Workload("shop", "other-1", "other", ("10.0.0.2",))
GET = (HttpMatch("get", Regex("/get"), ("GET",)),)
HTTPS = EgressGrant("Egress shop/tls", TILL.identity, ((443, "https"),), ("pay.example",))
HTTP = EgressGrant("Egress shop/web", TILL.identity, ((80, "http"),), ("*.example",), (), GET)
DB = EgressGrant("Egress shop/db", TILL.identity, ((3306, "tcp"),), (), ("203.0.113.0/24", "198.51.100.1/32"))


def told(*grants, who=TILL, host="", address="", port=443, protocol="", request=None, egress=False):
    snapshot = Snapshot("n", Mesh(egress=egress), (TILL, OTHER), egress=grants)
    return explain_outside(snapshot, who, host, address, port, protocol, request)


def test_what_passes_and_what_it_hangs_on():
    found = told(HTTPS, host="pay.example")
    assert (found.allowed, found.rule) == (True, "Egress shop/tls")
    assert found.steps == (
        "shop/till-1 is identity shop/till",
        "pay.example is outside the mesh",
        "asked as https",
        "the address that is called has to be one that DNS gave shop/till-1 for pay.example",
    )
    found = told(DB, address="203.0.113.9", port=3306)
    assert (found.allowed, found.endpoint, found.steps[-1]) == (True, "203.0.113.9:3306", "any bytes to port 3306")
    found = told(DB, host="db.example", port=3306)
    assert found.allowed
    assert found.steps[-1] == "the address has to be in 203.0.113.0/24, 198.51.100.1/32"
    assert told(host="any.example", egress=True).rule == "enableEgress"


def test_which_requests_pass():
    found = told(HTTP, host="a.example", port=80)
    assert (found.allowed, found.nearest) == (False, "Egress shop/web")
    assert found.requests == ("GET /get (match get of Egress shop/web)",)
    assert told(HTTP, host="a.example", port=80, protocol="http", request=Request("GET", "/get")).allowed


@pytest.mark.parametrize(
    ("call", "reason", "lacked"),
    [
        ({"who": OTHER, "host": "pay.example"}, "outside", "Egress shop/db names source shop/till, not shop/other"),
        ({"host": "pay.example", "port": 8443}, "egress-port", "lists port 3306 (tcp), not 8443"),
        (
            {"host": "pay.example", "protocol": "http"},
            "egress-port",
            "Egress shop/tls lists port 443 with https, this is http",
        ),
        ({"host": "evil.test"}, "egress-host", "Egress shop/tls lists host pay.example, not evil.test"),
        ({"address": "192.0.2.1"}, "egress-no-name", "Egress shop/tls lists host pay.example, and none is named"),
        (
            {"address": "192.0.2.1", "port": 3306},
            "egress-port",
            "Egress shop/db lists address 203.0.113.0/24, 198.51.100.1/32, not 192.0.2.1",
        ),
        (
            {"host": "a.example", "port": 80, "protocol": "http", "request": Request("PUT", "/get")},
            "egress-no-match",
            "match get of Egress shop/web wants method GET, this is PUT",
        ),
    ],
)
def test_what_the_nearest_lacks(call, reason, lacked):
    found = told(DB, HTTPS, HTTP, **call)
    assert (found.allowed, found.reason, found.side) == (False, reason, "the caller's node")
    assert lacked in found.lacked


def test_where_there_is_no_egress():
    found = told(host="pay.example")
    assert (found.reason, found.nearest, found.lacked) == (
        "outside",
        "",
        "no Egress has shop/till as a source",
    )
