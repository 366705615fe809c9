"""service_names.py, through a snapshot: which Service a host means."""

import pytest
from msgspec.structs import replace

from policy.model import Service
from tests.policy.test_snapshot import SNAPSHOT, WEB


@pytest.mark.parametrize(
    "host",
    [
        "web",
        "WEB",
        "web:80",
        "web.shop",
        "web.shop.",
        "web.shop.svc",
        "web.shop.svc.edge",
        "web.shop.svc.edge.local",
        "Web.Shop.svc.edge.local.:80",
    ],
)
def test_names_of_a_service(host):
    assert SNAPSHOT.named(host, "shop") is WEB


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        ".web",
        "web.other",
        "web.shop.svc.cluster.local",
        "web.shop.com",
        "web.shop.sv",
        "web.shop.svc.edge.locale",
        "10.96.0.1",
        "[::1]:80",
        "x.web.shop",
    ],
)
def test_names_of_no_service(host):
    assert SNAPSHOT.named(host, "shop") is None


def test_a_short_name_is_the_askers_own_namespace():
    assert SNAPSHOT.named("web", "front") is None
    assert SNAPSHOT.named("web.shop", "front") is WEB


@pytest.mark.parametrize(
    "name",
    [
        "web.shop.svc.edge.local.lan",
        "Web.shop.svc.edge.local.branch.example.",
        "web.shop.svc.edge.local.front.svc.edge.local",
        "web.shop.svc.edge.local.svc.edge.local",
        "web.shop.svc.edge.local.edge.local",
        "web.shop.front.svc.edge.local",
        "web.shop.svc.front.svc.edge.local",
        "web.shop.svc.svc.edge.local",
    ],
)
def test_what_a_search_list_makes_of_a_services_name_is_that_service(name):
    assert SNAPSHOT.named(name, "front") is None
    assert SNAPSHOT.searched(name, "front") is WEB


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "web",
        "web.lan",
        "web.shop.lan",
        "web.shop.svc.lan",
        "web.shop.edge.local",
        "web.edge.local",
        "web.svc.edge.local",
        "svc.edge.local",
        "web.shop.other.svc.edge.local",
        "x.web.shop.front.svc.edge.local",
        "x.web.shop.svc.edge.local",
        "missing.shop.svc.edge.local.lan",
        "example.org.front.svc.edge.local",
    ],
)
def test_what_may_be_a_name_of_the_world_outside_is_not_taken_for_a_service(name):
    assert SNAPSHOT.searched(name, "front") is None


def test_a_host_of_a_headless_service_is_not_taken_for_another_service():
    """web.shop.front is host web of the service shop in front, when there is one."""
    name = "web.shop.front.svc.edge.local"
    with_shop = replace(SNAPSHOT, services=(*SNAPSHOT.services, Service("front", "shop")))
    assert with_shop.searched(name, "front") is None
