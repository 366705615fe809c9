"""Settings of one node: the NodeConfig objects of its manifests, what the command line overrides, and the environment.

`NodeConfig` named "default" speaks for every node; one with the node's own name is laid over it, field by field. A field that
cannot be used is a Problem and keeps the value that it had (at the start: the last good one, else its default), so that no typing
error stops a node. Those of other nodes say how they are reached. This is the one file that reads the process's environment.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.config_checks import CHECKS, check_node
from agent.config_checks import parse_address as parse_address  # noqa: PLC0414 - it is asked for here
from nodeproxy.capture import Ports
from nodeproxy.limits import Limits, PeerLimits, Seconds
from nodeproxy.ruleset import Marks
from policy.addresses import RANGES
from policy.model import Node, Problem, Severity, Where
from policy.resources import RawObject

_S = TypeVar("_S", bound=Struct)

API_VERSION = "edgemesh.io/v1alpha1"
KIND = "NodeConfig"
DEFAULT = "default"

SOCKET = "/run/edgemesh/edgemesh.sock"


class Dns(Struct, frozen=True, rename="camel"):
    enabled: bool = True  # answer workloads' questions for Service names
    ttl: Annotated[int, Meta(ge=0, le=86400)] = 5  # seconds; CoreDNS's kubernetes plugin has the same


class IdentityConfig(Struct, frozen=True, rename="camel"):
    """How this node proves who its workloads are. Seconds."""

    lifetime: Seconds = 14 * 86400.0  # asked for; the authority may give less. Longer than a node is likely to be cut off
    tolerance: Annotated[float, Meta(ge=0, le=86400)] = 300.0  # that clocks may differ: certificates are believed that long around
    refresh: Seconds = 3600.0  # between looks at the authority's bundle: new roots come that late
    authority: str = ""  # HOST:PORT of the signing door; "": the one that was joined


class AuthorityConfig(Struct, frozen=True, rename="camel"):
    """The signing door; used with `edgemesh run --authority` only."""

    listen: str = "0.0.0.0:15012"


class Http2(Struct, frozen=True, rename="camel"):
    """Bounds on every HTTP/2 connection: what a peer may send before we took it (RFC 9113 section 5.2), and streams at once."""

    stream_window: Annotated[int, Meta(ge=16384, le=2**31 - 1)] = 262144  # bytes
    connection_window: Annotated[int, Meta(ge=65535, le=2**31 - 1)] = 1048576  # bytes; it begins with 65,535 and cannot shrink
    streams: Annotated[int, Meta(ge=1, le=10_000)] = 100


class UpdateConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """When one daemon hands over to another. Seconds."""

    deadline: Seconds = 30.0  # for the new one to take over and prove well
    drain_timeout: Seconds = 600.0  # what connections of the old one get; it serves nothing else meanwhile


class NodeConfig(Struct, frozen=True, rename="camel"):
    """Paths, addresses and bounds of one node's daemon."""

    node: str = ""  # the node's name; "": the host name
    addresses: tuple[str, ...] = ()  # where other nodes reach this one: its tunnel door listens there, on ports.tunnel
    metered: bool = False  # its link costs by the byte
    state_dir: str = "/var/lib/edgemesh"
    admin_socket: str = SOCKET
    metrics_address: str = "127.0.0.1:15020"  # "": no metrics
    metrics_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # pairs of workloads that are counted apart
    service_range: tuple[str, ...] = RANGES
    dns: Dns = Dns()
    on_stop: Literal["closed", "open"] = "closed"  # what a stopped daemon leaves: every call refused, or no rules at all
    access_log: Literal["off", "denied", "all"] = "denied"
    native_lane: bool = True  # where it was compiled
    poll_interval: Seconds = 2.0  # between looks at the manifests where inotify does not work
    limits: Limits = Limits()
    ports: Ports = Ports()
    marks: Marks = Marks()
    identity: IdentityConfig = IdentityConfig()
    authority: AuthorityConfig = AuthorityConfig()
    http2: Http2 = Http2()
    peers: PeerLimits = PeerLimits()
    update: UpdateConfig = UpdateConfig()


# What takes effect while the daemon runs; everything else waits for its next start.
LIVE = frozenset(("limits", "access_log", "poll_interval"))


class Environment(Struct, frozen=True):
    """What the process's environment says; "" when it says nothing."""

    socket: str
    node: str


def environment(variables: Mapping[str, str] = os.environ) -> Environment:
    return Environment(variables.get("EDGEMESH_SOCKET", ""), variables.get("EDGEMESH_NODE", ""))


def is_node_config(raw: RawObject) -> bool:
    """These objects are read here; policy never sees them."""
    return raw.data.get("kind") == KIND and str(raw.data.get("apiVersion")).startswith("edgemesh.io/")


class Settings:
    """NodeConfig objects -> one NodeConfig, again and again while files change. `overrides`: fields that the command line gave."""

    def __init__(self, overrides: Mapping[str, Any] | None = None, host: str = "") -> None:
        self._overrides = dict(overrides or {})
        self._host = host or socket.gethostname()
        self.config = self._override(NodeConfig())
        self.accepted: tuple[RawObject, ...] = ()  # the last version without a Problem of every NodeConfig that is there
        self._laid: dict[str, NodeConfig] = {}  # by name, each but "default" laid over that

    def __repr__(self) -> str:
        return f"<Settings of {self.config.node}>"

    def remember(self, objects: Iterable[RawObject]) -> None:
        """What was good before a restart: what stands in for fields that cannot be used now. `config` does not change."""
        self.accepted = tuple(raw for raw in objects if is_node_config(raw))
        self._laid = self._lay(_Reader(), sorted(self.accepted, key=lambda raw: raw.where))

    def read(self, objects: Iterable[RawObject]) -> list[Problem]:
        """Put what these objects say into `config`; what is wrong with them comes back, and changes nothing."""
        reader = _Reader()
        configs = sorted((raw for raw in objects if is_node_config(raw)), key=lambda raw: raw.where)
        self._laid = self._lay(reader, configs)
        default = self._laid[DEFAULT]
        node = self._override(default).node
        self.config = self._override(msgspec.structs.replace(self._laid.get(node, default), node=node))
        reader.check_shared(configs, self.nodes())
        self.accepted = reader.accepted(configs, self.accepted)
        return reader.problems

    def _lay(self, reader: _Reader, configs: Sequence[RawObject]) -> dict[str, NodeConfig]:
        default = reader.lay_named(NodeConfig(), self._laid.get(DEFAULT, NodeConfig()), configs, DEFAULT)
        names = sorted({_name(raw) for raw in configs} - {DEFAULT})
        return {DEFAULT: default, **{name: reader.lay_named(default, self._laid.get(name, default), configs, name) for name in names}}

    def nodes(self) -> tuple[Node, ...]:
        """How every node with a NodeConfig of its own is reached."""
        return tuple(
            Node(name, config.addresses, config.ports.tunnel, config.metered)
            for name, config in self._laid.items()
            if name != DEFAULT and not check_node(name)
        )

    def _override(self, config: NodeConfig) -> NodeConfig:
        config = msgspec.structs.replace(config, **self._overrides)
        return config if config.node else msgspec.structs.replace(config, node=self._host)


def wrong_overrides(overrides: Mapping[str, Any]) -> str:
    """What is wrong with settings from the command line; "" when nothing is."""
    names = dict(zip(NodeConfig.__struct_fields__, NodeConfig.__struct_encode_fields__, strict=True))
    for field, value in overrides.items():
        check = CHECKS.get(f"$.spec.{names[field]}")
        if check and (wrong := check(value)):
            return f"{names[field]} {value!r} {wrong}"
    return ""


def waiting(running: NodeConfig, wanted: NodeConfig, where: Where = Where()) -> list[Problem]:  # noqa: B008 - frozen
    """Notices of the fields that differ from what runs, and wait for the next start."""
    return [
        Problem("notice", where, f"{KIND} {wanted.node}", f"{name} changed; it takes effect at the next start", "restart edgemesh")
        for field, name in zip(NodeConfig.__struct_fields__, NodeConfig.__struct_encode_fields__, strict=True)
        if field not in LIVE and getattr(running, field) != getattr(wanted, field)
    ]


class _Reader:
    """Lays specs over a NodeConfig and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._faulty: set[int] = set()  # NodeConfigs with a Problem, by id

    def lay_named(self, base: NodeConfig, previous: NodeConfig, configs: Sequence[RawObject], name: str) -> NodeConfig:
        """`base` with what the NodeConfig of this name says; what cannot be used of that is as in `previous`."""
        named = [raw for raw in configs if _name(raw) == name]
        for raw in named[1:]:
            if not name:
                self._lay_object(base, previous, raw)
                continue
            self._report(raw, "$", "error", f"a second NodeConfig of this name; the one at {named[0].where} is used", "keep one of them")
        return self._lay_object(base, previous, named[0]) if named else base

    def check_shared(self, configs: Sequence[RawObject], nodes: Sequence[Node]) -> None:
        """Two nodes cannot be reached at one address and port; unless somebody forwards, one of them is never."""
        taken: dict[tuple[str, int], str] = {}
        for node in nodes:
            for address in node.addresses:
                other = taken.setdefault((address, node.tunnel_port), node.name)
                if other != node.name:
                    raw = next(raw for raw in configs if _name(raw) == node.name)
                    message = f"spec.addresses: {address} port {node.tunnel_port} is where node {other} is reached too"
                    self._report(raw, "$.spec.addresses", "warning", message, "give each node its own addresses")

    def accepted(self, configs: Sequence[RawObject], before: Sequence[RawObject]) -> tuple[RawObject, ...]:
        """Each NodeConfig as it was when nothing was wrong with it."""
        good = {_name(raw): raw for raw in reversed(configs) if id(raw) not in self._faulty}
        names = {_name(raw) for raw in configs}
        return tuple(sorted(({_name(raw): raw for raw in before if _name(raw) in names} | good).values(), key=lambda raw: raw.where))

    def _lay_object(self, base: NodeConfig, previous: NodeConfig, raw: RawObject) -> NodeConfig:
        version = raw.data.get("apiVersion")
        if version != API_VERSION:
            self._report(raw, "$.apiVersion", "error", f"{version} is not read here", f"write {API_VERSION}")
            return previous
        if not _name(raw):
            self._report(raw, "$.metadata", "error", "no metadata.name", 'name it "default", or after the node that it is for')
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
        """`base` with what `spec` says; a field that cannot be used is as in `previous`."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(base)}
        laid: dict[str, Any] = {}
        for key, item in spec.items():
            at = f"{path}.{key}"
            field = fields.get(key)
            if field is None:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
                self._report(raw, at, "error", f"unknown field {at[2:]}", hint)
                continue
            now, before = getattr(base, field.name), getattr(previous, field.name)
            if isinstance(now, Struct):
                if isinstance(item, dict):
                    value = self._lay(now, before, raw, item, at)
                    wrong = CHECKS[at](value) if at in CHECKS else ""
                    laid[field.name] = before if wrong else value
                else:
                    wrong = f"Expected `object`, got `{type(item).__name__}`"
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
    """What is wrong ("" = nothing), and the value."""
    try:
        value = msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        return str(error), None
    if path.startswith("$.spec.limits.") and value <= 0:
        return "must be more than 0", None
    return (CHECKS[path](value) if path in CHECKS else ""), value


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _name(raw: RawObject) -> str:
    metadata = raw.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
