"""translate/isolation.py: what is cut off, for whom, and that nothing but a person lifts it."""

import pytest

from policy.build import build
from policy.explain import explain
from policy.model import Request, Where
from policy.resources import RawObject, from_cluster

WORLD = [
    *(
        {
            "apiVersion": "edgemesh.io/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "serviceAccount": account,
                "addresses": addresses,
                "labels": {"app": account},
                "enrolled": enrolled,
            },
        }
        for name, account, addresses, enrolled in (
            ("web-1", "web", ["10.0.0.1", "fd00::1"], True),
            ("web-2", "web", ["10.0.1.1"], True),
            ("till", "till", ["10.0.2.1"], True),
            ("left", "left", ["10.0.1.9"], False),
        )
    ),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    },
    {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "TCPRoute",
        "metadata": {"name": "all", "namespace": "shop"},
        "spec": {},
    },
    {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "t", "namespace": "shop"},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "web"},
            "sources": [{"kind": "ServiceAccount", "name": "till"}],
            "rules": [{"kind": "TCPRoute", "name": "all"}],
        },
    },
]


def isolation(*cidrs, name="q", group="edgemesh.io"):
    return {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "Isolation",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }


def made(*objects, previous=None, file="x.yaml"):
    raws = [RawObject(data, Where(file, number), {}) for number, data in enumerate((*WORLD, *objects), 1)]
    return build(raws, previous)


def said(built, severity="error"):
    return [(p.object, p.message) for p in built.problems if p.severity == severity]


def verdict(built, to="web-1", who="till"):
    snapshot = built.snapshot
    caller, server = snapshot.workload(f"shop/{who}"), snapshot.workload(f"shop/{to}")
    told = explain(snapshot, caller, server, 8080, Request("GET", "/"))
    if not caller.isolated:
        found = snapshot.admits(caller.identity, server, 8080, Request("GET", "/"))
        assert (told.allowed, told.reason) == (found.allowed, found.reason)
        assert snapshot.admits(caller.identity, server, 8080, None, "udp").allowed <= found.allowed
    return told.allowed, told.reason, told.lacked


@pytest.mark.parametrize("group", ["edgemesh.io", "policy.flomesh.io"])
def test_nobody_calls_what_is_cut_off_and_others_take_its_turns(group):
    built = made(isolation("10.0.0.0/24", group=group))
    assert not said(built)
    assert said(built, "notice") == [("Isolation q", "cuts off shop/web-1")]
    assert verdict(built) == (False, "isolated", "Isolation q cuts off shop/web-1")
    assert verdict(built, "web-2")[0]
    (port,) = built.snapshot.service("shop/web").ports
    assert [endpoint.workload for endpoint in port.endpoints] == ["shop/web-1", "shop/web-2"]
    assert [endpoint.workload for endpoint in port.near] == ["shop/web-2"]
    snapshot = built.snapshot
    told = explain(snapshot, snapshot.workload("shop/till"), snapshot.service("shop/web"), 80)
    assert told.allowed
    assert "Isolation q cuts the others off: 1 of 2 endpoints of shop/web may take it" in told.steps


def test_any_of_its_addresses_cuts_a_workload_off():
    built = made(isolation("fd00::/64"))
    assert verdict(built)[1] == "isolated"
    assert [endpoint.workload for endpoint in built.snapshot.service("shop/web").ports[0].near] == ["shop/web-2"]


def test_what_is_cut_off_calls_nobody():
    built = made(isolation("10.0.2.1/32"))
    assert verdict(built) == (False, "isolated", "Isolation q cuts off shop/till")
    assert built.snapshot.service("shop/web").ports[0].near is None


def test_permissive_mode_and_egress_open_nothing_of_it():
    config = {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
        "spec": {"traffic": {"enablePermissiveTrafficPolicyMode": True, "enableEgress": True}},
    }
    built = made(isolation("10.0.0.0/23"), config)
    assert verdict(built)[1] == "isolated"
    assert verdict(built, "left")[1] == "isolated"
    assert built.snapshot.isolates("10.0.1.200") == "Isolation q"
    assert built.snapshot.isolates("10.0.3.1") == ""
    left = built.snapshot.workload("shop/left")
    assert built.snapshot.lets_in("10.0.9.9", built.snapshot.workload("shop/web-1"), 8080).reason == "isolated"
    assert built.snapshot.lets_in("10.0.0.77", left, 8080).reason == "isolated"


def test_a_service_of_which_all_is_cut_off_has_nobody():
    built = made(isolation("10.0.0.0/16", name="all"))
    snapshot = built.snapshot
    assert snapshot.candidates(snapshot.service("shop/web"), 80).reason == "no-endpoint"


@pytest.mark.parametrize("cidrs", [["10.0.0.0/33"], ["shop"], ["10.0.0.0/24", ""], []])
def test_a_range_that_is_none_is_an_error_and_the_last_good_version_stays(cidrs):
    assert said(made(isolation(*cidrs)))
    good = made(isolation("10.0.0.0/24"))
    again = made(isolation(*cidrs), previous=good.accepted)
    assert said(again)
    assert verdict(again)[1] == "isolated"


def test_one_that_meets_nobody_says_so():
    assert said(made(isolation("192.0.2.0/24")), "notice") == [
        ("Isolation q", "no workload is at an address in these ranges")
    ]


def test_one_that_is_gone_from_a_directory_stays_and_other_ranges_lift_it():
    good = made(isolation("10.0.0.0/24"))
    gone = made(previous=good.accepted)
    assert verdict(gone)[1] == "isolated"
    assert ("Isolation q", "is in no manifest any more: what it cuts off stays cut off") in said(gone, "warning")
    assert verdict(made(isolation("192.0.2.0/24"), previous=gone.accepted))[0]


def test_what_a_cluster_no_longer_has_is_lifted():
    good = made(isolation("10.0.0.0/24"), file="kubernetes:x")
    assert all(from_cluster(raw) for raw in good.accepted.values())
    assert verdict(good)[1] == "isolated"
    assert verdict(made(previous=good.accepted, file="kubernetes:x"))[0]
