"""Who made a request, and what for: only what the API server wrote counts."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from agent.identity import csr
from agent.identity.kubernetes.objects import (
    SIGNER,
    USAGES,
    Metadata,
    Pod,
    PodSpec,
    PodStatus,
    RequestSpec,
    SigningRequest,
)
from agent.identity.kubernetes.requests import Caller, Denied, asked, caller, node_of, running_there

SYSTEM = "edgemesh-system"
TILL = "spiffe://cluster.local/ns/shop/sa/till"
EXTRA = {
    "authentication.kubernetes.io/pod-name": ("agent-a",),
    "authentication.kubernetes.io/pod-uid": ("uid-a",),
    "authentication.kubernetes.io/node-name": ("n-a",),
}
USER = "system:serviceaccount:edgemesh-system:edgemesh-agent"
WHO = Caller(SYSTEM, "edgemesh-agent", "agent-a", "uid-a", "n-a")
AGENT = Pod(Metadata("agent-a", SYSTEM, "uid-a"), PodSpec("n-a", "edgemesh-agent"), PodStatus("Running"))


def made(**spec: Any) -> SigningRequest:
    given = {"signer_name": SIGNER, "usages": tuple(USAGES), "username": USER, "extra": EXTRA, **spec}
    return SigningRequest(Metadata("csr-1"), RequestSpec(**given))


def encoded(pem: str) -> str:
    return b64encode(pem.encode()).decode()


def of(*names: x509.GeneralName, subject: tuple[x509.NameAttribute, ...] = (), key: Any = None) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name(list(subject)))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def reason(denied: pytest.ExceptionInfo[Denied]) -> str:
    return denied.value.reason


def test_the_caller_is_the_pod_that_the_token_is_bound_to() -> None:
    assert caller(made(), SYSTEM) == WHO
    older = {name: value for name, value in EXTRA.items() if "node" not in name}
    assert caller(made(extra=older), SYSTEM).node == "", "before Kubernetes 1.30"
    assert caller(made(username=USER.replace("-agent", "-server")), SYSTEM).account == "edgemesh-server"


@pytest.mark.parametrize(
    "username",
    [
        "",
        "system:admin",
        "edgemesh-agent",
        "system:serviceaccount:edgemesh-system:other",
        "system:serviceaccount:edgemesh-system:edgemesh-agent:more",
        "system:serviceaccount:shop:edgemesh-agent",
        "x system:serviceaccount:edgemesh-system:edgemesh-agent",
        "system:node:n-a",
    ],
)
def test_nobody_else_is_a_caller(username: str) -> None:
    with pytest.raises(Denied) as denied:
        caller(made(username=username), SYSTEM)
    assert reason(denied) == "NotAnAgent"


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"authentication.kubernetes.io/pod-name": ("agent-a",)},
        {**EXTRA, "authentication.kubernetes.io/pod-uid": ("uid-a", "uid-b")},
        {**EXTRA, "authentication.kubernetes.io/pod-name": ("agent-a", "agent-b")},
        {**EXTRA, "authentication.kubernetes.io/pod-uid": ()},
    ],
)
def test_a_token_of_no_single_pod_is_none(extra: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(Denied) as denied:
        caller(made(extra=extra), SYSTEM)
    assert reason(denied) == "NotBoundToAPod"


def test_the_node_is_where_the_pod_runs() -> None:
    assert node_of(WHO, AGENT) == "n-a"
    assert node_of(replace(WHO, node=""), AGENT) == "n-a"


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (None, "PodGone"),
        (replace(AGENT, metadata=replace(AGENT.metadata, uid="uid-b")), "PodGone"),
        (replace(AGENT, metadata=replace(AGENT.metadata, name="agent-b")), "PodGone"),
        (replace(AGENT, spec=PodSpec("n-a", "edgemesh-server")), "NotAnAgent"),
        (replace(AGENT, spec=PodSpec("", "edgemesh-agent")), "PodNotRunning"),
        (replace(AGENT, status=PodStatus("Failed")), "PodNotRunning"),
        (replace(AGENT, status=PodStatus("Succeeded")), "PodNotRunning"),
        (replace(AGENT, spec=PodSpec("n-b", "edgemesh-agent")), "OtherNode"),
    ],
)
def test_a_pod_that_is_not_the_callers_gives_no_node(pod: Pod | None, why: str) -> None:
    with pytest.raises(Denied) as denied:
        node_of(WHO, pod)
    assert reason(denied) == why


def test_what_is_asked_for_is_the_one_name_in_the_request() -> None:
    pem = csr.request(csr.new_key(), TILL)
    found = asked(made(request=encoded(pem), expiration_seconds=3600))
    assert (found.spiffe, found.pem, found.lifetime) == (TILL, pem, 3600.0)
    assert asked(made(request=encoded(pem))).lifetime is None
    assert found.node == ""
    assert asked(made(request=encoded(csr.request(csr.new_key(), TILL, "n-a")))).node == "n-a"


UNIT = x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "n-a")
URI = x509.UniformResourceIdentifier(TILL)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ("", "Malformed"),
        ("%%%", "Malformed"),
        (encoded("no request"), "Malformed"),
        ("A" * 100_000, "Malformed"),
        (encoded(of()), "Malformed"),
        (encoded(of(URI, x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/store"))), "Malformed"),
        (encoded(of(URI, x509.DNSName("shop"))), "Malformed"),
        (encoded(of(x509.DNSName("shop"))), "Malformed"),
        (encoded(of(URI, subject=(x509.NameAttribute(x509.NameOID.COMMON_NAME, "system:admin"),))), "Malformed"),
        (encoded(of(URI, subject=(UNIT, UNIT))), "Malformed"),
        (encoded(of(URI, key=ec.generate_private_key(ec.SECP384R1()))), "Malformed"),
    ],
)
def test_a_request_that_names_anything_else_is_denied(request_: str, why: str) -> None:
    with pytest.raises(Denied) as denied:
        asked(made(request=request_))
    assert reason(denied) == why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"signer_name": "kubernetes.io/kube-apiserver-client"}, "OtherSigner"),
        ({"usages": ("digital signature", "client auth")}, "WrongUsages"),
        ({"usages": (*USAGES, "cert sign")}, "WrongUsages"),
    ],
)
def test_other_signers_and_usages_are_denied(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(Denied) as denied:
        asked(made(request=encoded(csr.request(csr.new_key(), TILL)), **changed))
    assert reason(denied) == why


def test_only_pods_that_run_there_count_whatever_was_listed() -> None:
    till = Pod(Metadata("till-1", "shop", "1"), PodSpec("n-a", "till"), PodStatus("Running"))
    others = [
        replace(till, metadata=Metadata("till-1", "outside", "2")),
        replace(till, spec=PodSpec("n-b", "till")),
        replace(till, spec=PodSpec("n-a", "store")),
        replace(till, status=PodStatus("Failed")),
    ]
    assert running_there(others, "shop", "till", "n-a") == []
    begins = replace(till, status=PodStatus("Pending"))
    assert running_there([*others, till, begins], "shop", "till", "n-a") == [till, begins]
