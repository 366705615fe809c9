"""What an API server serves: its version, and of each kind that is wanted the version and the path.

The kinds of custom resources come and go with their definitions. So these are watched, by their metadata alone, and
whenever one of a wanted group changes, the groups are asked again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.kubernetes.api import ApiError, ApiServer, path_of

# The core group needs no discovery: these have been there since Kubernetes 1.0.
_CORE = {
    "Namespace": "namespaces",
    "Node": "nodes",
    "Pod": "pods",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
DEFINITIONS = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions")
_ORDERED_SINCE = (1, 35)  # KEP 5504: resourceVersions may be compared
_WATCH_LIST_SINCE = (1, 32)  # on by default, except in 1.33, which refuses it in words


class Wanted(Struct, frozen=True):
    """A kind as we know it. `versions`: that we read, the best last."""

    kind: str
    group: str
    versions: tuple[str, ...]


class Served(Struct, frozen=True):
    """A kind as the server has it."""

    kind: str
    group: str
    version: str  # as in apiVersion
    path: str  # of its collection


class _Version(Struct, rename="camel"):
    major: str = ""
    minor: str = ""
    git_version: str = ""


class _GroupVersion(Struct):
    version: str = ""


class _Group(Struct):
    name: str = ""
    versions: list[_GroupVersion] = []


class _Groups(Struct):
    groups: list[_Group] = []


class _Resource(Struct):
    name: str = ""
    kind: str = ""
    verbs: list[str] = []


class _Resources(Struct):
    resources: list[_Resource] = []


class ServerVersion(Struct, frozen=True):
    """`text` as the server says it, "v1.32.1+k3s1"; (0, 0) if it makes no sense."""

    number: tuple[int, int]
    text: str

    @property
    def watch_list(self) -> bool:
        """Whether it may list and watch in one stream."""
        return self.number >= _WATCH_LIST_SINCE

    @property
    def ordered(self) -> bool:
        """Whether of two resourceVersions the greater one is the newer one."""
        return self.number >= _ORDERED_SINCE


async def version_of(api: ApiServer) -> ServerVersion:
    """Raise ApiError, ApiUnreachable."""
    said: _Version = await api.get("/version", _Version)
    match = re.fullmatch(r"([0-9]{1,4}) ([0-9]{1,4})\+?", f"{said.major} {said.minor}")
    return ServerVersion((int(match[1]), int(match[2])) if match else (0, 0), said.git_version[:64])


async def served(
    api: ApiServer, wanted: Iterable[Wanted], before: Mapping[tuple[str, str], Served]
) -> dict[tuple[str, str], Served]:
    """Return what is served of the wanted kinds, by group and kind, in the best version that we read.

    `before`: what this returned last; it stands for a group that cannot be asked now. Raise ApiError, ApiUnreachable.
    """
    wanted = tuple(wanted)
    groups: _Groups = await api.get("/apis", _Groups)
    there = {group.name: {one.version for one in group.versions} for group in groups.groups}
    found: dict[tuple[str, str], Served] = {}
    asked: dict[str, dict[str, str] | None] = {}  # by group and version: path by kind
    for one in wanted:
        key = (one.group, one.kind)
        if not one.group:
            found[key] = Served(one.kind, "", "v1", path_of("v1", _CORE[one.kind]))
            continue
        for version in reversed(one.versions):
            if version not in there.get(one.group, ()):
                continue
            name = f"{one.group}/{version}"
            if name not in asked:
                asked[name] = await _paths(api, name)
            paths = asked[name]
            if paths is None:
                if key in before:
                    found[key] = before[key]
                break
            if one.kind in paths:
                found[key] = Served(one.kind, one.group, name, paths[one.kind])
                break
    return found


async def _paths(api: ApiServer, name: str) -> dict[str, str] | None:
    """Return the path of each kind that can be watched; None if the server cannot say it now. Raise ApiUnreachable."""
    try:
        resources: _Resources = await api.get(path_of(name, ""), _Resources)
    except ApiError as error:
        return {} if error.status == 404 else None
    return {
        one.kind: path_of(name, one.name) for one in resources.resources if "watch" in one.verbs and "/" not in one.name
    }
