"""Which names a client outside the mesh may have, and which belong to workloads, Services or other namespaces."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.identity.kubernetes.outside import check_namespace, wanted
from agent.identity.kubernetes.requests import Denied
from policy.enrolment import Marks
from policy.model import Identity

SCANNER = Identity("partners", "scanner")


def spec(*names: Any, **secret: Any) -> bytes:
    return msgspec.json.encode({"subjectAltNames": names, "secret": {"name": "scanner", **secret}})


@pytest.mark.parametrize(
    ("names", "identity", "hosts"),
    [
        (["scanner.partners.cluster.local"], SCANNER, ("scanner.partners.cluster.local",)),
        (["spiffe://cluster.local/ns/partners/sa/scanner"], SCANNER, ()),
        (
            ["scanner.partners.cluster.local", "spiffe://cluster.local/ns/partners/sa/scanner", "a.example.com"],
            SCANNER,
            ("scanner.partners.cluster.local", "a.example.com"),
        ),
        (["a.b.partners.cluster.local"], Identity("partners", "a.b"), ("a.b.partners.cluster.local",)),
        (["a.example.com", "a.example.com"], None, ("a.example.com",)),
    ],
)
def test_names_of_a_client(names: list[str], identity: Identity | None, hosts: tuple[str, ...]) -> None:
    found = wanted("partners", spec(*names), "cluster.local")
    assert (found.identity, found.hosts, found.secret) == (identity, hosts, "scanner")


@pytest.mark.parametrize(
    ("names", "reason", "said"),
    [
        (["till.shop.cluster.local"], "CrossNamespace", "put the AccessCert into namespace shop"),
        (["spiffe://cluster.local/ns/shop/sa/till"], "CrossNamespace", "till of namespace shop"),
        (["spiffe://elsewhere/ns/partners/sa/scanner"], "OtherTrustDomain", "of the trust domain cluster.local"),
        (["spiffe://cluster.local/node/n1"], "Invalid", "is no SPIFFE ID of a service account"),
        (["a.partners.cluster.local", "b.partners.cluster.local"], "SeveralIdentities", "several are named"),
        (["partners.cluster.local"], "Invalid", "is none of SERVICE-ACCOUNT.NAMESPACE.cluster.local"),
        (["stock.shop.svc.cluster.local"], "Invalid", "the name of a Service"),
        ([1], "Invalid", "Expected `str`"),
        ([], "Invalid", "there is no name"),
    ],
)
def test_names_that_it_does_not_get(names: list[Any], reason: str, said: str) -> None:
    with pytest.raises(Denied) as denied:
        wanted("partners", spec(*names), "cluster.local")
    assert (denied.value.reason, said in denied.value.message) == (reason, True), denied.value.message


def test_names_of_the_cluster_where_the_trust_domain_is_another() -> None:
    with pytest.raises(Denied, match="may be the name of a Service; the trust domain is corp"):
        wanted("partners", spec("stock.shop.cluster.local"), "corp.example")
    assert wanted("partners", spec("scanner.partners.corp.example"), "corp.example").identity == SCANNER


def test_two_parts_may_be_a_service_of_a_namespace() -> None:
    assert wanted("partners", spec("stock.shop", "a.b.example.com"), "cluster.local").not_namespaces == ("shop",)


@pytest.mark.parametrize("namespace", ["kube-system", "edgemesh-system"])
def test_nothing_is_written_where_secrets_are_the_clusters_own(namespace: str) -> None:
    with pytest.raises(Denied) as denied:
        wanted(namespace, spec("a.example.com"), "cluster.local")
    assert denied.value.reason == "Protected"


def test_a_secret_elsewhere() -> None:
    with pytest.raises(Denied) as denied:
        wanted("partners", spec("a.example.com", namespace="shop"), "cluster.local")
    assert denied.value.reason == "CrossNamespace"


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"nonsense", b'{"secret": {"name": "a"}, "subjectAltNames": ["a.b"], "x": 1}']
)
def test_what_makes_no_sense(body: bytes) -> None:
    with pytest.raises(Denied) as denied:
        wanted("partners", body, "cluster.local")
    assert denied.value.reason == "Invalid"


def test_a_namespace_of_the_mesh_gives_no_identities() -> None:
    check_namespace("partners", Marks())
    check_namespace("shop", Marks({"openservicemesh.io/monitored-by": "osm", "openservicemesh.io/ignore": "true"}))
    for labels in ({"openservicemesh.io/monitored-by": "osm"}, {"edgemesh.io/mesh": "enabled"}):
        with pytest.raises(Denied, match="namespace shop is in the mesh"):
            check_namespace("shop", Marks(labels))
