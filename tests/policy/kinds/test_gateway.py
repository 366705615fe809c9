"""kinds/gateway.py: manifests as the Gateway API's own pages write them are read, and its bounds hold."""

from typing import Any

import pytest

from policy.decode import decode
from policy.kinds.gateway import HTTPRoute
from policy.model import Problem, Where
from policy.resources import RawObject, Resource


def read(spec: dict[str, Any]) -> Resource[HTTPRoute] | Problem:
    data = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": spec}
    found = decode(RawObject(data, Where("r.yaml", 1), {}))
    assert isinstance(found, Resource | Problem)
    return found


def test_what_an_api_server_fills_in_is_what_is_meant_without_it() -> None:
    bare = {"parentRefs": [{"name": "gate"}], "rules": [{"matches": [{"path": {}}], "backendRefs": [{"name": "a"}]}]}
    filled = {
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gate"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"group": "", "kind": "Service", "name": "a", "weight": 1}],
            }
        ],
    }
    one, other = read(bare), read(filled)
    assert isinstance(one, Resource)
    assert isinstance(other, Resource)
    assert one.spec.rules == other.spec.rules


@pytest.mark.parametrize(
    "spec",
    [
        {"rules": [{}] * 17},
        {"rules": [{"matches": [{}] * 65}]},
        {"rules": [{"backendRefs": [{"name": "a"}] * 17}]},
        {"parentRefs": [{"name": "a"}] * 33},
        {"parentRefs": [{"kind": "Service"}]},
        {"rules": [{"backendRefs": [{"name": "a", "weight": 1_000_001}]}]},
        {"rules": [{"filters": [{"type": "URLRewrite", "urlRewrites": {}}]}]},
    ],
)
def test_more_than_its_definition_admits_is_refused(spec: dict[str, Any]) -> None:
    assert isinstance(read(spec), Problem)


def test_parts_that_are_not_acted_on_are_read_as_they_come() -> None:
    found = read(
        {
            "useDefaultGateways": "All",
            "rules": [
                {
                    "retry": {"attempts": 1},
                    "sessionPersistence": {},
                    "filters": [{"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP"}}],
                }
            ],
        }
    )
    assert isinstance(found, Resource)
