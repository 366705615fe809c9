"""kinds/gateways.py: objects as an API server fills them in are read, and bounds hold."""

from typing import Any

import pytest

from policy.decode import decode
from policy.model import Problem, Where
from policy.resources import RawObject, Resource


def read(kind: str, spec: dict[str, Any]) -> Resource[Any] | Problem:
    data = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "r"}, "spec": spec}
    found = decode(RawObject(data, Where("r.yaml", 1), {}))
    assert isinstance(found, Resource | Problem)
    return found


LISTENER = {"name": "http", "port": 80, "protocol": "HTTP"}


def test_what_an_api_server_fills_in() -> None:
    spec = {
        "gatewayClassName": "edgemesh",
        "addresses": [{"type": "IPAddress", "value": "192.0.2.1"}],
        "allowedListeners": {"namespaces": {"from": "None"}},
        "infrastructure": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "listeners": [
            LISTENER | {"allowedRoutes": {"namespaces": {"from": "Same"}}},
            {
                "name": "https",
                "port": 443,
                "protocol": "HTTPS",
                "hostname": "*.example",
                "tls": {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": "c"}]},
            },
        ],
        "tls": {
            "frontend": {
                "default": {
                    "validation": {
                        "mode": "AllowValidOnly",
                        "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}],
                    }
                },
                "perPort": [{"port": 443, "tls": {}}],
            }
        },
    }
    found = read("Gateway", spec)
    assert isinstance(found, Resource)
    assert found.spec.listeners[0].allowed_routes.namespaces.from_ == "Same"
    assert found.spec.tls.frontend.default.validation.ca_certificate_refs[0].name == "roots"
    grant = read("ReferenceGrant", {"from": [{"group": "g", "kind": "k", "namespace": "n"}], "to": [{"group": "", "kind": "Service"}]})  # fmt: skip
    assert isinstance(grant, Resource)
    assert grant.spec.from_[0].namespace == "n"


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Gateway", {"gatewayClassName": "edgemesh", "listeners": [LISTENER] * 65}),
        ("Gateway", {"gatewayClassName": "edgemesh", "listeners": [LISTENER | {"port": 0}]}),
        ("Gateway", {"listeners": [LISTENER]}),
        ("Gateway", {"gatewayClassName": "edgemesh", "listeners": [LISTENER | {"hostnames": ["a"]}]}),
        ("ListenerSet", {"listeners": [LISTENER]}),
        ("GatewayClass", {}),
        ("ReferenceGrant", {"from": [{"kind": "HTTPRoute", "namespace": "n"}], "to": []}),
    ],
)
def test_what_is_not_of_its_shape_is_refused(kind: str, spec: dict[str, Any]) -> None:
    assert isinstance(read(kind, spec), Problem)
