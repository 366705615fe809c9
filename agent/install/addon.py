"""The objects that edgemesh is in a Kubernetes cluster: namespace, definitions of kinds, rights, one daemon per node.

They are written once, as text with comments, in manifests/. What may differ between clusters stands there as
`{{ .Values.name }}`, so that the same text is the template of the Helm chart; `render` does the little of Helm's
language that it needs. build/pages/addon.py writes k3s-addon/ from it, and `edgemesh install` sends it to the API server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec
from msgspec import Struct

import agent
from policy.near import did_you_mean

NAMESPACE = "edgemesh-system"
SERVER, AGENT = "edgemesh-server", "edgemesh-agent"  # DaemonSets, and the ServiceAccounts that they run as
LABELS = {"app.kubernetes.io/name": "edgemesh"}
HEALTH = "127.0.0.1:15021"  # where the kubelet asks the daemon of its node


class Form(Struct, frozen=True):
    """What a value looks like, all of it: a pattern that Python and JSON schemas read alike, and the same in words."""

    pattern: str  # without what only Python has: Helm reads it too
    words: str


_PART = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_IMAGE = Form(
    rf"([A-Za-z0-9.-]+(:[0-9]{{1,5}})?/)?{_PART}(/{_PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@[a-z0-9]+:[0-9a-f]+)?",
    "the name of an image, as registry.example/edgemesh:0.1.0 or registry.example/edgemesh@sha256:DIGEST",
)
# Of Kubernetes's quantities those that make sense here: 384m of memory would be less than a byte.
_CPU = Form(
    r"[1-9][0-9]*(m|\.[0-9]{1,3})?|0\.(00[1-9]|0[1-9][0-9]?|[1-9][0-9]{0,2})",
    "an amount of CPU (thousandths of a core, as 20m, or cores, as 0.5)",
)
_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "M": 10**6, "G": 10**9}
_MEMORY = Form(f"[1-9][0-9]{{0,5}}({'|'.join(_UNITS)})", "an amount of memory (a whole number and Mi or Gi, as 384Mi)")
_PULLS = Form("Always|IfNotPresent|Never", "Always, IfNotPresent or Never")
_SWITCH = Form("true|false", "true or false")


class Value(Struct, frozen=True):
    """Something that `--set` and the chart's values.yaml may change."""

    default: str
    meaning: str
    form: Form


VALUES: Mapping[str, Value] = {
    "image": Value(f"edgemesh.io/edgemesh:{agent.__version__}", "the image of the daemons", _IMAGE),
    "imagePullPolicy": Value("IfNotPresent", "when a node pulls the image", _PULLS),
    "cpuRequest": Value("20m", "CPU that the scheduler keeps free for the daemon of a node, which has no limit", _CPU),
    "memoryRequest": Value("64Mi", "memory that the scheduler keeps free for it", _MEMORY),
    "memoryLimit": Value("384Mi", "memory at which it is killed, and started again", _MEMORY),
    "flowControl": Value(
        "true", "its requests to the API server have a queue of their own (Kubernetes 1.29 and newer)", _SWITCH
    ),
}
VERSION = {"version": agent.__version__}

_SERVERS = {
    "ABOUT": "The daemon of each server node: it takes part in signing certificates.",
    "COMPONENT": "server",
    "PRESENCE": "Exists",
    "ARGUMENTS": f"[run, --kubernetes, --authority, --health-address, {HEALTH}]",
}
_AGENTS = {
    "ABOUT": "The daemon of every other node.",
    "COMPONENT": "agent",
    "PRESENCE": "DoesNotExist",
    "ARGUMENTS": f"[run, --kubernetes, --health-address, {HEALTH}]",
}
_PLACE = re.compile(r"\{\{ \.Values\.(\w+) \}\}")
_IF = re.compile(r"\{\{- if \.Values\.(\w+) \}\}")
_END = "{{- end }}"


class SettingError(Exception):
    """A value that cannot be used. The message says which and why."""


def definitions() -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions: made from policy/kinds by build/pages/crds.py."""
    return list(msgspec.json.decode(_file("definitions.json")))


def template(part: str) -> str:
    """Return the text of one part: "namespace", "access", "server" or "agent"."""
    if part not in ("server", "agent"):
        return _file(f"{part}.yaml")
    text = _file("daemon.yaml")
    for word, meant in (_SERVERS if part == "server" else _AGENTS).items():
        text = re.sub(rf"\b{word}\b", meant, text)
    return text


def settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return every value: those given, and the defaults of the others. Raise SettingError."""
    for name, value in given.items():
        if name not in VALUES:
            raise SettingError(f"there is no value {name!r}; {did_you_mean(name, VALUES) or ', '.join(VALUES)}")
        form = VALUES[name].form
        if not re.fullmatch(form.pattern, value):
            hint = did_you_mean(value, form.pattern.split("|")) if form in (_PULLS, _SWITCH) else ""
            raise SettingError(f"{name}: {value!r} is not {form.words}{f'; {hint}' if hint else ''}")
    found = {name: given.get(name, value.default) for name, value in VALUES.items()}
    request, limit = found["memoryRequest"], found["memoryLimit"]
    if _bytes(request) > _bytes(limit):
        raise SettingError(f"memoryRequest: {request} is more than memoryLimit, {limit}")
    return found | VERSION


def _bytes(memory: str) -> int:
    number = memory.rstrip("".join(_UNITS))
    return int(number) * _UNITS[memory.removeprefix(number)]


def render(text: str, values: Mapping[str, str]) -> str:
    """Return a template with its values. What stands between `if` and `end` of a value that is false is left out."""
    lines, shown = [], True
    for line in text.splitlines(keepends=True):
        if found := _IF.match(line):
            shown = values[found[1]] == "true"
        elif line.startswith(_END):
            shown = True
        elif shown:
            lines.append(_PLACE.sub(lambda place: values[place[1]], line))
    return "".join(lines)


def manifest(values: Mapping[str, str], definitions_text: str) -> str:
    """Return everything as one YAML stream; `definitions_text` is the definitions' part.

    The definitions stand before the daemons, which would otherwise find them missing at their start.
    """
    before, after = render(template("namespace"), values), (render(template(part), values) for part in PARTS[1:])
    return "---\n".join([before, definitions_text, *after])


PARTS = ("namespace", "access", "server", "agent")


def _file(name: str) -> str:
    return (resources.files("agent.install") / "manifests" / name).read_text("utf-8")
