"""The settings of one node: the NodeConfig objects of its manifests, command line overrides, and the environment.

The `NodeConfig` named "default" applies to every node; one with the node's own name overrides it field by field. A
field with an unusable value is a Problem and keeps the value that it had (at the start: the last good one, else its
default), so that no typing error stops a node. The NodeConfigs of other nodes say how those are reached. This is the
one file that reads the process's environment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.config.checks import CHECKS, check_node
from agent.config.schema import API_VERSION, DEFAULT, KIND, LIVE, NodeConfig
from policy.faults import faults
from policy.model import Node, Problem, Severity, Where
from policy.near import did_you_mean
from policy.resources import RawObject, from_cluster

_S = TypeVar("_S", bound=Struct)


class Environment(Struct, frozen=True):
    """The environment variables that are read; "" for one that is not set."""

    socket: str
    node: str
    pod: str = ""  # in a cluster: the name of the daemon's own pod
    namespace: str = ""  # and its namespace
    kubeconfig: str = ""  # files with access to a cluster, separated by colons
    kubernetes_host: str = ""  # address of the API server, as every pod is given it
    kubernetes_port: str = ""
    nri_plugin: str = ""  # descriptor of the connection by which a container runtime started us as its plugin


def environment(variables: Mapping[str, str] = os.environ) -> Environment:
    return Environment(
        socket=variables.get("EDGEMESH_SOCKET", ""),
        node=variables.get("EDGEMESH_NODE", ""),
        pod=variables.get("EDGEMESH_POD", ""),
        namespace=variables.get("EDGEMESH_NAMESPACE", ""),
        kubeconfig=variables.get("KUBECONFIG", ""),
        kubernetes_host=variables.get("KUBERNETES_SERVICE_HOST", ""),
        kubernetes_port=variables.get("KUBERNETES_SERVICE_PORT", ""),
        nri_plugin=variables.get("NRI_PLUGIN_SOCKET", ""),
    )


def is_node_config(raw: RawObject) -> bool:
    """Return whether an object is a NodeConfig. These are read here, and policy never sees them."""
    return raw.data.get("kind") == KIND and str(raw.data.get("apiVersion")).startswith("edgemesh.io/")


class Settings:
    """Builds one NodeConfig from NodeConfig objects, again and again while files change.

    `overrides`: fields that the command line gave.
    """

    def __init__(self, overrides: Mapping[str, Any] | None = None, host: str = "") -> None:
        self._overrides = dict(overrides or {})
        self._host = host or socket.gethostname()
        self.config = self._override(NodeConfig())
        # every NodeConfig that exists, in its last version without a Problem
        self.accepted: tuple[RawObject, ...] = ()
        self.kept: tuple[str, ...] = ()  # keys of NodeConfigs in force that are in no manifest any more
        # by name; each but "default" has the fields of "default" where it has none of its own
        self._laid: dict[str, NodeConfig] = {}

    def __repr__(self) -> str:
        return f"<Settings of {self.config.node}>"

    def remember(self, objects: Iterable[RawObject]) -> None:
        """Take the NodeConfigs that were good before a restart. They stand in for fields that cannot be used now.

        `config` does not change.
        """
        self.accepted = tuple(raw for raw in objects if is_node_config(raw))
        self._laid = self._lay(_Reader(), sorted(self.accepted, key=_precedence))

    def read(self, objects: Iterable[RawObject], released: Collection[str] = ()) -> list[Problem]:
        """Update `config` from these objects. Return the Problems; what they concern changes nothing.

        A NodeConfig that this node has read and that vanished stays in force until it is `released` (by its key), as do
        objects of policy whose absence would open something (policy/lasting.py): no default may allow again what it
        forbade.
        """
        reader = _Reader()
        configs = sorted((raw for raw in objects if is_node_config(raw)), key=_precedence)
        there = {_name(raw) for raw in configs}
        last = [
            raw
            for raw in self.accepted
            if _name(raw) in {DEFAULT, self.config.node} - there
            and _key(raw) not in released
            and not from_cluster(raw)  # an API server tells of every deletion
        ]
        self.kept = tuple(map(_key, last))
        for raw in last:
            reader.problems.append(_stays(raw))
        configs = sorted([*configs, *last], key=_precedence)
        self._laid = self._lay(reader, configs)
        default = self._laid[DEFAULT]
        node = self._override(default).node
        self.config = self._override(msgspec.structs.replace(self._laid.get(node, default), node=node))
        reader.check_shared(configs, self.nodes())
        reader.check_metrics(configs, self._laid)
        self.accepted = reader.accepted(configs, self.accepted)
        return reader.problems

    def _lay(self, reader: _Reader, configs: Sequence[RawObject]) -> dict[str, NodeConfig]:
        default = reader.lay_named(NodeConfig(), self._laid.get(DEFAULT, NodeConfig()), configs, DEFAULT)
        names = sorted({_name(raw) for raw in configs} - {DEFAULT})
        return {
            DEFAULT: default,
            **{name: reader.lay_named(default, self._laid.get(name, default), configs, name) for name in names},
        }

    def nodes(self) -> tuple[Node, ...]:
        """Return how every node that has its own NodeConfig is reached."""
        return tuple(
            Node(name, config.addresses, config.ports.tunnel, config.metered)
            for name, config in self._laid.items()
            if name != DEFAULT and not check_node(name)
        )

    def _override(self, config: NodeConfig) -> NodeConfig:
        config = msgspec.structs.replace(config, **self._overrides)
        return config if config.node else msgspec.structs.replace(config, node=self._host)


def _precedence(raw: RawObject) -> tuple[bool, Where]:
    return from_cluster(raw), raw.where  # what the directory says wins


def wrong_overrides(overrides: Mapping[str, Any]) -> str:
    """Return what is wrong with settings from the command line; "" when nothing is wrong."""
    names = dict(zip(NodeConfig.__struct_fields__, NodeConfig.__struct_encode_fields__, strict=True))
    for field, value in overrides.items():
        check = CHECKS.get(f"$.spec.{names[field]}")
        if check and (wrong := check(value)):
            return f"{names[field]} {value!r} {wrong}"
    if overrides.get("metrics_address") and not overrides.get("metrics_token_file"):
        return "metricsAddress is for who shows a token: say with --metrics-token-file where that is"
    return ""


def waiting(running: NodeConfig, wanted: NodeConfig, where: Where = Where()) -> list[Problem]:  # noqa: B008 - frozen
    """Return a notice for each field that differs from what runs and takes effect at the next start."""
    return [
        Problem(
            "notice",
            where,
            f"{KIND} {wanted.node}",
            f"{name} changed; it takes effect at the next start",
            "restart edgemesh",
        )
        for field, name in zip(NodeConfig.__struct_fields__, NodeConfig.__struct_encode_fields__, strict=True)
        if field not in LIVE and getattr(running, field) != getattr(wanted, field)
    ]


class _Reader:
    """Applies specs to a NodeConfig and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._faulty: set[int] = set()  # NodeConfigs with a Problem, by id

    def lay_named(self, base: NodeConfig, previous: NodeConfig, configs: Sequence[RawObject], name: str) -> NodeConfig:
        """Return `base` with the fields of the NodeConfig of this name; unusable ones are taken from `previous`."""
        named = [raw for raw in configs if _name(raw) == name]
        for raw in named[1:]:
            if not name:
                self._lay_object(base, previous, raw)
                continue
            self._report(
                raw,
                "$",
                "error",
                f"a second NodeConfig of this name; the one at {named[0].where} is used",
                "keep one of them",
            )
        return self._lay_object(base, previous, named[0]) if named else base

    def check_shared(self, configs: Sequence[RawObject], nodes: Sequence[Node]) -> None:
        """Warn of two nodes with one address and port: without forwarding, one of them can never be reached."""
        taken: dict[tuple[str, int], str] = {}
        for node in nodes:
            for address in node.addresses:
                other = taken.setdefault((address, node.tunnel_port), node.name)
                if other != node.name:
                    raw = next(raw for raw in configs if _name(raw) == node.name)
                    message = f"spec.addresses: {address} port {node.tunnel_port} is where node {other} is reached too"
                    self._report(raw, "$.spec.addresses", "warning", message, "give each node its own addresses")

    def check_metrics(self, configs: Sequence[RawObject], laid: Mapping[str, NodeConfig]) -> None:
        """Warn of a metrics address without a token file.

        Metrics name which workload calls which. Every process of the node can reach the address, so a token is
        required.
        """
        for raw in configs:
            config = laid.get(_name(raw))
            if config is None or not config.metrics_address or config.metrics_token_file:
                continue
            if any(name in raw.data.get("spec", {}) for name in ("metricsAddress", "metricsTokenFile")):
                message = f"spec.metricsAddress: nobody is answered at {config.metrics_address}, since no metricsTokenFile says what is to be shown there"
                hint = "write a token to a file (openssl rand -hex 32) and name it there; the admin socket has /metrics without one"
                self._report(raw, "$.spec.metricsAddress", "warning", message, hint)

    def accepted(self, configs: Sequence[RawObject], before: Sequence[RawObject]) -> tuple[RawObject, ...]:
        """Return each NodeConfig in the last version in which nothing was wrong."""
        good = {_name(raw): raw for raw in reversed(configs) if id(raw) not in self._faulty}
        names = {_name(raw) for raw in configs}
        return tuple(
            sorted(
                ({_name(raw): raw for raw in before if _name(raw) in names} | good).values(), key=lambda raw: raw.where
            )
        )

    def _lay_object(self, base: NodeConfig, previous: NodeConfig, raw: RawObject) -> NodeConfig:
        version = raw.data.get("apiVersion")
        if version != API_VERSION:
            self._report(raw, "$.apiVersion", "error", f"{version} is not read here", f"write {API_VERSION}")
            return previous
        if not _name(raw):
            self._report(
                raw, "$.metadata", "error", "no metadata.name", 'name it "default", or after the node that it is for'
            )
            return base
        for key in raw.data:
            if key not in ("apiVersion", "kind", "metadata", "spec"):
                self._report(raw, f"$.{key}", "error", f"unknown field {key}", "the settings are in spec")
        spec = raw.data.get("spec", {})
        if not isinstance(spec, dict):
            self._report(raw, "$.spec", "error", "spec is not a mapping")
            return previous
        return self._lay(base, previous, raw, spec, "$.spec")

    def _lay(self, base: _S, previous: _S, raw: RawObject, spec: Mapping[str, Any], path: str) -> _S:
        """Return `base` with the fields of `spec`; unusable ones are taken from `previous`."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(base)}
        laid: dict[str, Any] = {}
        for key, item in spec.items():
            at = f"{path}.{key}"
            field = fields.get(key)
            if field is None:
                hint = did_you_mean(key, fields, f"known here: {', '.join(fields)}")
                self._report(raw, at, "error", f"unknown field {at[2:]}", hint)
                continue
            now, before = getattr(base, field.name), getattr(previous, field.name)
            if isinstance(now, Struct):
                if isinstance(item, dict):
                    value = self._lay(now, before, raw, item, at)
                    wrong = CHECKS[at](value) if at in CHECKS else ""
                    laid[field.name] = before if wrong else value
                else:
                    wrong = faults(item, dict[str, Any], at)[0][1].removeprefix(f"{at[2:]}: ")
            else:
                wrong, value = _convert(item, field.type, at)
                laid[field.name] = before if wrong else value
            if wrong:
                self._report(raw, at, "error", f"{at[2:]}: {wrong}", f"in force: {_shown(before)}")
        return msgspec.structs.replace(base, **laid)

    def _report(self, raw: RawObject, path: str, severity: Severity, message: str, hint: str = "") -> None:
        where = Where(raw.where.file, raw.line(path))
        if severity == "error":
            self._faulty.add(id(raw))
        self.problems.append(Problem(severity, where, f"{KIND} {_name(raw)}".rstrip(), message, hint))


def _convert(item: Any, kind: Any, path: str) -> tuple[str, Any]:
    """Return what is wrong ("" = nothing), and the value."""
    try:
        value = msgspec.convert(item, kind)
    except msgspec.ValidationError:
        _, message, hint = faults(item, kind, path)[0]
        said = message.removeprefix(path[2:]).removeprefix(": ").removeprefix(" ")
        return f"{said}; {hint}" if hint else said, None
    if path.startswith("$.spec.limits.") and (value < 0 or (value == 0 and path != "$.spec.limits.idleTimeout")):
        return "must be more than 0", None
    return (CHECKS[path](value) if path in CHECKS else ""), value


def _key(raw: RawObject) -> str:
    return f"{KIND} /{_name(raw)}"


def _stays(raw: RawObject) -> Problem:
    hint = f"edgemesh release {KIND}/{_name(raw)} forgets it; so does one of that name"
    return Problem(
        "warning", raw.where, f"{KIND} {_name(raw)}", "is in no manifest any more: what it says stays in force", hint
    )


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _name(raw: RawObject) -> str:
    metadata = raw.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
