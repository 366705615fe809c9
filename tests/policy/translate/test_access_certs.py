"""AccessCert: what an object alone may ask for, and that a directory of manifests gets no certificate."""

from __future__ import annotations

from typing import Any

import pytest

from policy.build import build
from policy.model import Problem, Where
from policy.resources import RawObject
from policy.unheeded import unheeded

SCANNER = "scanner.partners.cluster.local"


def problems(names: list[str], file: str = "kubernetes:AccessCert/partners/scanner", **secret: str) -> list[Problem]:
    spec: dict[str, Any] = {"subjectAltNames": names, "secret": {"name": "scanner", **secret}}
    data = {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "AccessCert",
        "metadata": {"name": "scanner", "namespace": "partners"},
        "spec": spec,
    }
    built = build([RawObject(data, Where(file, 1), {})])
    return [*built.problems, *unheeded(built.resources)]


@pytest.mark.parametrize(
    "names",
    [
        [SCANNER],
        ["spiffe://cluster.local/ns/partners/sa/scanner"],
        ["client.example.com", SCANNER],
        ["a-1.b"],
    ],
)
def test_names_of_a_client(names: list[str]) -> None:
    assert problems(names) == []
    assert problems(names, namespace="partners") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stock.shop.svc.cluster.local", "is the name of a Service or a pod of a cluster"),
        ("stock.shop.svc", "is the name of a Service"),
        ("10-0-0-1.shop.pod.cluster.local", "is the name of a Service or a pod"),
        ("*.partners.cluster.local", "stands for many names"),
        ("localhost", "is no DNS name of two parts"),
        ("Scanner.partners.cluster.local", "in lower case"),
        ("a..b", "is no DNS name"),
        ("a.b:443", "is no DNS name"),
        ("me@example.com", "is no DNS name"),
        ("x." * 130 + "y", "is no DNS name"),
        ("", "is no DNS name"),
        ("192.168.7.9", "is an address"),
        ("fd00::1", "is an address"),
        ("https://example.com", "is no SPIFFE ID of a service account"),
        ("spiffe://cluster.local/node/n1", "is no SPIFFE ID of a service account"),
        ("spiffe://cluster.local/authority", "is no SPIFFE ID of a service account"),
        ("spiffe://cluster.local/ns/a/sa/b/c", "is no SPIFFE ID of a service account"),
    ],
)
def test_names_that_nobody_gets(name: str, said: str) -> None:
    (problem,) = problems([name])
    assert (problem.severity, said in problem.message) == ("error", True), problem.message


def test_a_secret_of_another_namespace_is_not_written() -> None:
    (problem,) = problems([SCANNER], namespace="shop")
    assert "a Secret in namespace shop is not written for an AccessCert in partners" in problem.message
    assert problem.hint.startswith("put the AccessCert into namespace shop")


@pytest.mark.parametrize("name", ["a/b", "..", "A", "x" * 254])
def test_a_secret_has_a_name_that_it_may_have(name: str) -> None:
    (problem,) = problems([SCANNER], name=name)
    assert "is no name of a Secret" in problem.message


def test_how_many_names() -> None:
    assert "there is no name to certify" in problems([])[0].message
    assert problems([f"n{number}.example.com" for number in range(20)]) == []
    assert "more than 20" in problems([f"n{number}.example.com" for number in range(21)])[0].message


def test_from_a_directory_no_certificate_is_made_and_what_to_do_instead_is_said() -> None:
    (problem,) = problems([SCANNER], file="/etc/edgemesh/scanner.yaml")
    assert (problem.severity, problem.unmet) == ("warning", True)
    assert "no certificate is made for it" in problem.message
    assert "IngressBackend" in problem.hint
