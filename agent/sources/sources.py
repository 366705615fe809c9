"""The table of sources: each row makes one from the command line, or returns None where it was not requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.sources import directory
from agent.sources.source import Options, Source


def _kubernetes(options: Options) -> Source | None:
    if options.api is None:
        return None
    from agent.sources.kubernetes.cluster import Cluster

    return Cluster(options.api)


SOURCES: Mapping[str, Callable[[Options], Source | None]] = {
    "directory": directory.source,
    "kubernetes": _kubernetes,
}


def opened(options: Options) -> tuple[Source, ...]:
    """Return the sources that the command line requests."""
    return tuple(source for row in SOURCES.values() if (source := row(options)) is not None)
