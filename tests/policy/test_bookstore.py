"""The demo's manifests, step by step: what policy alone says of every call that its people make."""

from collections import Counter
from types import SimpleNamespace

import pytest

from agent.demo.documents import MEMBERS, fixed, workload
from agent.demo.plan import HOSTS
from agent.demo.steps import STEPS
from agent.sources.manifest import read
from nodeproxy.errors import Refused
from nodeproxy.routing.route import Outward
from nodeproxy.tls.credentials import NoIdentities
from nodeproxy.upstream.balance import Live
from policy.build import build
from policy.model import Request

NETWORK = SimpleNamespace(ipv6=True, name=lambda host: f"em-{host}")
SHOPPING = (
    Request("GET", "/books-bought", [(b"user-agent", b"Go-http-client/1.1"), (b"client-app", b"bookbuyer")]),
    Request("GET", "/buy-a-book/new"),
)
RESTOCK = Request("POST", "/restock-books")
VERSIONS = ("bookstore-v1", "bookstore-v2")


def built(step, previous=None):
    """The step as the daemon reads it; hosts appear when the demo starts them."""
    hosts = [host for host in HOSTS if host.name in MEMBERS and (host.name != "bookstore-v2" or step.has_v2)]
    files = {name: fixed(file) for name, file in step.files.items()} | {
        f"workload-{h.name}.yaml": workload(h, NETWORK) for h in hosts
    }
    raws = [raw for name, text in files.items() for raw in read(text.encode(), name).objects]
    return build(
        raws, previous.accepted if previous else None, previous.snapshot.addresses if previous else None, "demo"
    )


def walk():
    last = None
    for step in STEPS:
        last = built(step, last)
        yield step, last


WALK = list(walk())


def who(snapshot, name):
    return snapshot.workload(f"{MEMBERS[name][0]}/{name}")


def calls(snapshot, caller, service, request, times=20):
    """Where so many calls come to: a workload's name, or why not."""
    workload = who(snapshot, caller)
    context = SimpleNamespace(snapshot=snapshot, live=Live(1), captured=set(), identities=NoIdentities())
    address = snapshot.service(service).addresses[0]
    port = snapshot.service(service).ports[0].port
    route = Outward(
        SimpleNamespace(context=context, workload=workload, identity=workload.identity, dialled=(address, port))
    )
    found = Counter()
    for _ in range(times):
        try:
            found[route.pick(request).workload.name] += 1
        except Refused as refused:
            found[refused.flag] += 1
    return found


@pytest.mark.parametrize(("step", "result"), WALK, ids=range(1, 10))
async def test_a_step(step, result):
    snapshot = result.snapshot
    assert [p for p in result.problems if p.severity == "error"] == []
    for caller in ("bookbuyer", "bookthief"):
        rises = step.expectations[caller] == "rises"
        for request in SHOPPING:
            found = calls(snapshot, caller, "bookstore/bookstore", request)
            served = {version: found[version] for version in VERSIONS}
            assert (found["denied"] == 0) == rises, found
            if rises and caller == "bookbuyer":
                for version in VERSIONS:
                    share = {"rises": range(1, 21), "frozen": range(1), "half": range(10, 11), "absent": range(1)}
                    assert served[version] in share[step.expectations[version]], (served, request)
    for version in VERSIONS[: 2 if step.has_v2 else 1]:
        restocked = calls(snapshot, version, "bookwarehouse/bookwarehouse", RESTOCK)
        expected = "denied" if step is STEPS[1] else "bookwarehouse"
        assert set(restocked) == {expected}


@pytest.mark.parametrize(("step", "result"), WALK[2:], ids=range(3, 10))
async def test_what_no_rule_lists_is_denied(step, result):
    snapshot = result.snapshot
    for caller, service, request in [
        ("bookbuyer", "bookstore/bookstore", Request("POST", "/buy-a-book/new")),
        ("bookbuyer", "bookstore/bookstore", Request("GET", "/books-bought")),  # without the headers
        ("bookbuyer", "bookstore/bookstore", Request("GET", "/x/books-bought", SHOPPING[0].fields)),
        ("bookbuyer", "bookstore/bookstore", None),
        ("bookbuyer", "bookwarehouse/bookwarehouse", RESTOCK),
        ("bookbuyer", "bookwarehouse/mysql", None),
        ("bookthief", "bookwarehouse/bookwarehouse", RESTOCK),
        ("bookstore-v1", "bookwarehouse/mysql", None),
        ("bookstore-v1", "bookwarehouse/bookwarehouse", Request("GET", "/restock-books")),
    ]:
        assert set(calls(snapshot, caller, service, request)) == {"denied"}, (caller, service, request)
    assert set(calls(snapshot, "bookwarehouse", "bookwarehouse/mysql", None)) == {"mysql"}


def test_addresses_stay_from_step_to_step():
    first = WALK[0][1].snapshot.addresses
    assert all(result.snapshot.addresses[key] == value for _, result in WALK for key, value in first.items())
    assert set(first) == {
        "bookstore/bookstore",
        "bookstore/bookstore-v1",
        "bookwarehouse/bookwarehouse",
        "bookwarehouse/mysql",
    }
