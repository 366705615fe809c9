"""Settings of one node: the NodeConfig objects of its manifests, what the command line overrides, and the environment.

`NodeConfig` named "default" speaks for every node; one with the node's own name is laid over it, field by field. A field that
cannot be used is a Problem and keeps the value that it had (at the start: its default), so that no typing error stops a node.
This is the one file that reads the process's environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from nodeproxy.capture import Ports
from nodeproxy.limits import Limits
from nodeproxy.ruleset import Marks
from policy.addresses import RANGES
from policy.model import Problem, Severity, Where
from policy.resources import RawObject

_S = TypeVar("_S", bound=Struct)

API_VERSION = "edgemesh.io/v1alpha1"
KIND = "NodeConfig"
DEFAULT = "default"

SOCKET = "/run/edgemesh/edgemesh.sock"

Seconds = Annotated[float, Meta(gt=0)]


class Dns(Struct, frozen=True, rename="camel"):
    enabled: bool = True  # answer workloads' questions for Service names
    ttl: Annotated[int, Meta(ge=0, le=86400)] = 5  # seconds; CoreDNS's kubernetes plugin has the same


class NodeConfig(Struct, frozen=True, rename="camel"):
    """Paths, addresses and bounds of one node's daemon."""

    node: str = ""  # the node's name; "": the host name
    state_dir: str = "/var/lib/edgemesh"
    admin_socket: str = SOCKET
    metrics_address: str = "127.0.0.1:15020"  # "": no metrics
    metrics_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1000  # pairs of workloads that are counted apart
    service_range: tuple[str, ...] = RANGES
    dns: Dns = Dns()
    on_stop: Literal["closed", "open"] = "closed"  # what a stopped daemon leaves: every call refused, or no rules at all
    access_log: Literal["off", "denied", "all"] = "denied"
    poll_interval: Seconds = 2.0  # between looks at the manifests where inotify does not work
    limits: Limits = Limits()
    ports: Ports = Ports()
    marks: Marks = Marks()


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

    def __repr__(self) -> str:
        return f"<Settings of {self.config.node}>"

    def read(self, objects: Iterable[RawObject]) -> list[Problem]:
        """Put what these objects say into `config`; what is wrong with them comes back, and changes nothing."""
        reader = _Reader(self.config)
        configs = sorted((raw for raw in objects if is_node_config(raw)), key=lambda raw: raw.where)
        laid = reader.lay_named(NodeConfig(), configs, DEFAULT)
        node = self._override(laid).node
        laid = reader.lay_named(laid, configs, node)
        reader.check_others(configs, (DEFAULT, node))
        self.config = self._override(msgspec.structs.replace(laid, node=node))
        return reader.problems

    def _override(self, config: NodeConfig) -> NodeConfig:
        config = msgspec.structs.replace(config, **self._overrides)
        return config if config.node else msgspec.structs.replace(config, node=self._host)


def wrong_overrides(overrides: Mapping[str, Any]) -> str:
    """What is wrong with settings from the command line; "" when nothing is."""
    names = dict(zip(NodeConfig.__struct_fields__, NodeConfig.__struct_encode_fields__, strict=True))
    for field, value in overrides.items():
        check = _CHECKS.get(f"$.spec.{names[field]}")
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

    def __init__(self, previous: NodeConfig) -> None:
        self.problems: list[Problem] = []
        self._previous = previous

    def lay_named(self, base: NodeConfig, configs: Sequence[RawObject], name: str) -> NodeConfig:
        named = [raw for raw in configs if _name(raw) == name]
        for raw in named[1:]:
            self._report(raw, "$", "error", f"a second NodeConfig of this name; the one at {named[0].where} is used", "keep one of them")
        return self._lay_object(base, named[0]) if named else base

    def check_others(self, configs: Sequence[RawObject], names: Sequence[str]) -> None:
        """NodeConfigs of other nodes change nothing here, but what is wrong with them is told all the same."""
        for raw in configs:
            if _name(raw) not in names:
                self._lay_object(NodeConfig(), raw)

    def _lay_object(self, base: NodeConfig, raw: RawObject) -> NodeConfig:
        version = raw.data.get("apiVersion")
        if version != API_VERSION:
            self._report(raw, "$.apiVersion", "error", f"{version} is not read here", f"write {API_VERSION}")
            return base
        if not _name(raw):
            self._report(raw, "$.metadata", "error", "no metadata.name", 'name it "default", or after the node that it is for')
            return base
        for key in raw.data:
            if key not in ("apiVersion", "kind", "metadata", "spec"):
                self._report(raw, f"$.{key}", "error", f"unknown field {key}", "the settings are in spec")
        spec = raw.data.get("spec", {})
        if not isinstance(spec, dict):
            self._report(raw, "$.spec", "error", "spec is not a mapping")
            return base
        return self._lay(base, self._previous, raw, spec, "$.spec")

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
                    wrong = _CHECKS[at](value) if at in _CHECKS else ""
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
        self.problems.append(Problem(severity, where, f"{KIND} {_name(raw)}".rstrip(), message, hint))


def _convert(item: Any, kind: Any, path: str) -> tuple[str, Any]:
    """What is wrong ("" = nothing), and the value."""
    try:
        value = msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        return str(error), None
    if path.startswith("$.spec.limits.") and value <= 0:
        return "must be more than 0", None
    return (_CHECKS[path](value) if path in _CHECKS else ""), value


def _check_node(name: str) -> str:
    return "" if re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name) else "is no DNS name (lower case letters, digits, - and .)"


def _check_path(path: str) -> str:
    return "" if Path(path).is_absolute() else "is not an absolute path"


def _check_address(address: str) -> str:
    return "" if not address or parse_address(address) else "is not ADDRESS:PORT (an IPv6 address in brackets)"


def _check_networks(networks: tuple[str, ...]) -> str:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return str(error)
    return "" if networks else "names no network, so that no service would have an address"


def _check_ports(ports: Ports) -> str:
    numbers = [getattr(ports, name) for name in Ports.__struct_fields__]
    if not all(1 <= number <= 65535 for number in numbers):
        return "a port is a number from 1 to 65535"
    return "" if len(set(numbers)) == len(numbers) else "two doors with the same port"


def _check_marks(marks: Marks) -> str:
    if not all(0 < number < 2**32 for number in (marks.local, marks.bypass, marks.table)) or not 0 < marks.preference < 32766:
        return "marks and the table are numbers from 1 to 4294967295, the preference is one from 1 to 32765"
    return "the marks local and bypass must differ" if marks.local == marks.bypass else ""


def parse_address(address: str) -> tuple[str, int] | None:
    """ "127.0.0.1:15020" or "[::1]:15020" -> host and port; None when it is neither."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return None
    if (version == 6) != (host == f"[{bare}]") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return bare, int(port)


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _name(raw: RawObject) -> str:
    metadata = raw.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


_CHECKS: dict[str, Callable[[Any], str]] = {
    "$.spec.node": _check_node,
    "$.spec.stateDir": _check_path,
    "$.spec.adminSocket": _check_path,
    "$.spec.metricsAddress": _check_address,
    "$.spec.serviceRange": _check_networks,
    "$.spec.ports": _check_ports,
    "$.spec.marks": _check_marks,
}
