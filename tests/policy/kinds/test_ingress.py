"""policy/kinds/ingress.py: what an Ingress may say, and that a mistyped word is told."""

import pytest

from policy.decode import decode
from policy.model import Problem, Where
from policy.resources import RawObject, Resource

BACKEND = {"service": {"name": "stock", "port": {"number": 80}}}


def read(kind, **spec):
    metadata = {"name": "x"} | ({"namespace": "n"} if kind == "Ingress" else {})
    data = {"apiVersion": "networking.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    return decode(RawObject(data, Where("a.yaml", 1), {}))


def rule(**path):
    return {"host": "a.example", "http": {"paths": [path]}}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"ingressClassName": "edgemesh", "defaultBackend": BACKEND},
        {
            "rules": [rule(path="/", pathType="Prefix", backend=BACKEND)],
            "tls": [{"hosts": ["a.example"], "secretName": "s"}],
        },
        {"rules": [{"host": "a.example"}], "tls": [{}]},
        {"defaultBackend": {"resource": {"apiGroup": "k8s.example.com", "kind": "Bucket", "name": "b"}}},
    ],
)
def test_what_an_ingress_may_say(spec):
    assert isinstance(read("Ingress", **spec), Resource)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"rules": [rule(path="/", pathType="Prefx", backend=BACKEND)]}, "pathType"),
        ({"rules": [rule(path="/", backend=BACKEND)]}, "pathType"),
        ({"rules": [rule(path="/", pathType="Prefix")]}, "backend"),
        ({"ingressClassname": "edgemesh"}, "ingressClassName"),
        ({"defaultBackend": {"service": {"port": {"number": 80}}}}, "name"),
    ],
)
def test_what_it_may_not(spec, said):
    found = read("Ingress", **spec)
    assert isinstance(found, Problem)
    assert said in str(found)


def test_a_class():
    found = read("IngressClass", controller="edgemesh.io/ingress-controller", parameters={"kind": "K", "name": "p"})
    assert isinstance(found, Resource)
    assert found.spec.controller == "edgemesh.io/ingress-controller"
