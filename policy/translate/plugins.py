"""Plugin, PluginChain, PluginConfig: their scripts are not run. What does the job of those that osm-edge ships is named.

Which job an object has is told by its name, for the script is a program.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from policy.draft import Draft, Input
from policy.kinds.fsm import PluginConfig

_KINDS = ("Plugin", "PluginChain", "PluginConfig")
# What names of such objects contain, and what does that here
_JOBS = (
    (("cors",), "filter CORS of an HTTPRoute"),
    (("fault", "delay", "abort"), "an HTTPFilter with fault"),
    (("iam", "auth", "jwt", "token", "login"), "an HTTPFilter with extAuth"),
    (("mirror", "shadow"), "filter RequestMirror of an HTTPRoute"),
    (("verif", "hmac"), "an HTTPFilter with verify"),
    (("sign",), "an HTTPFilter with sign"),
    (("degrad",), "an HTTPFilter with degrade"),
    (("header",), "filter RequestHeaderModifier or ResponseHeaderModifier of an HTTPRoute"),
    (("rewrite", "redirect"), "filter URLRewrite or RequestRedirect of an HTTPRoute"),
    (("limit", "rate", "breaker"), "an UpstreamTrafficSetting"),
)
_ANY = "a filter of an HTTPRoute or an HTTPFilter may do its job"
_WHAT = {
    "Plugin": "its script is not run",
    "PluginChain": "no plugin runs where it says",
    "PluginConfig": "no plugin takes these settings",
}


def translate(resources: Input, draft: Draft) -> None:
    for kind in _KINDS:
        for resource in resources.all(kind):
            spec = resource.spec
            words = f"{resource.name} {spec.plugin if isinstance(spec, PluginConfig) else ''}".lower()
            jobs = list(_jobs(words))
            hint = f"{' or '.join(jobs)} does its job" if jobs else _ANY
            problem = resource.problem("warning", "$.kind", _WHAT[kind], hint)
            draft.problems.append(structs.replace(problem, unmet=True))


def _jobs(words: str) -> Iterator[str]:
    for parts, job in _JOBS:
        if any(part in words for part in parts):
            yield job
