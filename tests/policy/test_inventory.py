"""inventory.py, through a snapshot: what there is, and what an address means."""

import pytest
from msgspec.structs import replace

from policy.inventory import Inventory
from policy.model import Endpoint, Service, ServicePort, Workload
from tests.policy.test_snapshot import HEADLESS, SNAPSHOT, UNIT_A, UNIT_B, W1, W2, WEB, WEB_2


@pytest.mark.parametrize(
    ("address", "port", "kind", "service", "workload"),
    [
        ("10.96.0.1", 80, "service", WEB, None),
        ("fd00:96::1", 80, "service", WEB, None),
        ("10.96.0.1", 53, "no-port", WEB, None),  # that port is for datagrams
        ("10.96.0.1", 81, "no-port", WEB, None),
        ("10.0.0.1", 8080, "workload", WEB, W1),
        ("fd00::1", 8080, "workload", WEB, W1),
        ("fd00::1", 9999, "workload", None, W1),
        ("10.0.0.1", 9999, "workload", None, W1),
        ("10.0.0.3", 80, "external", None, None),
        ("192.168.0.1", 82, "workload", None, UNIT_B),
        ("192.168.0.1", 22, "external", None, None),
        ("1.1.1.1", 80, "external", None, None),
    ],
)
def test_what_was_dialled(address, port, kind, service, workload):
    found = SNAPSHOT.destination(address, port)
    assert (found.kind, found.service, found.workload) == (kind, service, workload)
    if kind == "workload":
        assert found.endpoint == Endpoint(address, port, workload.key)


def test_a_workloads_port_has_the_protocol_that_a_service_declares():
    assert SNAPSHOT.destination("10.0.0.2", 8080).protocol == "http", "web-2 declares it, web does not"
    assert SNAPSHOT.destination("10.0.0.1", 3306).protocol == "tcp"
    assert SNAPSHOT.destination("10.0.0.1", 9999).protocol == ""
    assert SNAPSHOT.destination("fd00::1", 3306).protocol == "tcp", "by each of its addresses"


def test_where_a_service_is():
    assert SNAPSHOT.addresses_of(WEB) == ("10.96.0.1", "fd00:96::1")
    assert SNAPSHOT.addresses_of(HEADLESS) == ("10.0.0.1", "fd00::1"), (
        "one without an address is where its workloads are, in each family"
    )
    nobody = Service("shop", "none", (), (ServicePort("a", 80, endpoints=(Endpoint("10.9.9.9", 80),)),))
    assert replace(SNAPSHOT, services=(nobody,)).addresses_of(nobody) == ("10.9.9.9",)
    assert SNAPSHOT.addresses_of(Service("shop", "unknown")) == ()


def test_which_service_a_workload_serves():
    assert SNAPSHOT.serves(WEB, W1) and SNAPSHOT.serves(WEB, W2) and not SNAPSHOT.serves(WEB_2, W1)
    assert SNAPSHOT.serves(replace(HEADLESS, routes=WEB.routes), W2), "by a backend of its split"


def test_workloads_that_share_an_address_are_told_apart_by_the_port():
    assert SNAPSHOT.workload_at("192.168.0.1", 81) is UNIT_A
    assert SNAPSHOT.workload_at("192.168.0.1", 82) is UNIT_B
    assert SNAPSHOT.workload_at("192.168.0.1") is None
    assert SNAPSHOT.workload_at("10.0.0.1") is W1, "an address of its own needs no port"


def test_a_headless_service_has_a_name_and_no_address():
    assert SNAPSHOT.named("headless", "shop") is HEADLESS
    assert SNAPSHOT.destination("10.0.0.1", 3306).kind == "workload"


def test_lookups_by_key():
    assert SNAPSHOT.workload("shop/w1") is W1
    assert SNAPSHOT.service("shop/web") is WEB
    assert SNAPSHOT.workload("shop/web") is None
    assert SNAPSHOT.service("shop/w1") is None


def test_how_long_an_endpoint_may_be_quiet_is_what_its_services_say():
    def port(idle, *endpoints):
        return ServicePort("p", 80, endpoints=tuple(Endpoint("10.0.0.1", number) for number in endpoints), idle=idle)

    services = (
        Service("a", "a", ports=(port(60.0, 1, 2, 3), port(None, 9))),
        Service("a", "b", ports=(port(90.0, 2), port(0.0, 3))),
    )
    found = replace(SNAPSHOT, services=services)
    assert [found.idle_timeout(Endpoint("10.0.0.1", number)) for number in (1, 2, 3, 9)] == [60.0, 90.0, 0.0, None]


def test_a_port_that_two_pods_of_one_node_declare_tells_nothing_unless_they_are_one_identity():
    def pod(name, account):
        return replace(
            UNIT_A,
            name=name,
            service_account=account,
            unit="",
            host_network=True,
            addresses=("192.168.0.9",),
            ports=(80,),
        )

    def at(*pods):
        return replace(SNAPSHOT, workloads=pods).workload_at("192.168.0.9", 80)

    assert at(pod("a", "x"), pod("b", "y")) is None
    assert at(pod("a", "x"), pod("b", "x")).name == "a"
    assert at(pod("a", "x"), replace(pod("b", "x"), enrolled=False)) is None
    assert at(pod("a", "x"), replace(pod("b", "y"), ports=(81,))).name == "a"


def test_a_service_of_another_namespace_does_not_say_how_a_workload_is_spoken_to():
    """Whoever writes EndpointSlices may name any pod in them."""
    pod = Workload("bank", "vault-0", "vault", ("10.1.0.1",))
    at = (Endpoint("10.1.0.1", 3306, "bank/vault-0"),)
    lure = Service("a", "lure", ("10.9.0.1",), (ServicePort("", 80, "http", endpoints=at),))
    own = Service("bank", "vault", ("10.9.0.2",), (ServicePort("", 3306, endpoints=at),))
    for services in ((lure, own), (own, lure)):
        found = Inventory("n1", workloads=(pod,), services=services).destination("10.1.0.1", 3306)
        assert (found.service, found.protocol) == (own, "")
    alone = Inventory("n1", workloads=(pod,), services=(lure,)).destination("10.1.0.1", 3306)
    assert (alone.service, alone.protocol) == (lure, ""), "the first bytes tell"
