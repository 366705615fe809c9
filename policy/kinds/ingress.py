"""Shapes of Ingress and IngressClass (Kubernetes, networking.k8s.io)."""

from __future__ import annotations

from typing import Any, Literal

from policy.kinds.base import Name, Port, Strict


class IngressClass(Strict, frozen=True):
    """A class of Ingresses and who serves it: edgemesh, if controller is edgemesh.io/ingress-controller."""

    controller: str = ""  # edgemesh.io/ingress-controller; a class of another controller is left alone
    parameters: Any = None  # none are read


class ServicePortRef(Strict, frozen=True):
    number: Port | None = None  # of the Service
    name: str | None = None  # the same by name


class ServiceRef(Strict, frozen=True):
    name: Name  # of a Service in the same namespace
    port: ServicePortRef = ServicePortRef()


class IngressRuleBackend(Strict, frozen=True):
    service: ServiceRef | None = None
    resource: Any = None  # not served: such calls are refused


class IngressPath(Strict, frozen=True):
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"]  # the last is read as Prefix
    backend: IngressRuleBackend
    path: str | None = None  # without: every path


class IngressHttp(Strict, frozen=True):
    paths: tuple[IngressPath, ...] = ()  # the longest that fits decides, and of two alike the exact one


class IngressRule(Strict, frozen=True):
    host: str | None = None  # whose calls it is for; *.shop.example is one label more; without: every host's
    http: IngressHttp | None = None  # without: the default backend takes its calls


class IngressSecret(Strict, frozen=True):
    hosts: tuple[str, ...] | None = None  # that are served with TLS; without: every host
    secret_name: str | None = None  # Secret of type kubernetes.io/tls in the same namespace


class Ingress(Strict, frozen=True):
    """Where calls from outside go by host and path: each node listens at ports 80 and 443 while there is an Ingress.

    It is served if its class is edgemesh, or an IngressClass of edgemesh. A server of the mesh still decides who comes in:
    an IngressBackend names the source `{kind: IngressClass, name: edgemesh}`.
    """

    ingress_class_name: str | None = None  # edgemesh; without: the IngressClass that is the default
    default_backend: IngressRuleBackend | None = None  # of calls that no rule fits
    rules: tuple[IngressRule, ...] | None = None
    tls: tuple[IngressSecret, ...] | None = None  # certificates for port 443, which is closed without any
