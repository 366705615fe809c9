"""The interface of a source: where objects come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from msgspec import Struct

from agent.config.schema import NodeConfig
from agent.sources import Change, Mark, Send
from policy.model import Problem
from policy.resources import RawObject

if TYPE_CHECKING:  # a node without a cluster should not load its client
    from agent.kubernetes.api import ApiServer
    from agent.kubernetes.reflector import Figures


class Options(Struct, frozen=True):
    """The command line's options for sources."""

    directory: Path | None = None  # --config
    api: ApiServer | None = None  # --kubernetes


class Source(Protocol):
    """One source. The daemon reads it once before anything else runs, and then runs it as long as the daemon lives."""

    @property
    def place(self) -> str:
        """The path or address that it reads, for people."""
        ...

    @property
    def prefix(self) -> str:
        """The beginning of its changes' origins, which no other source uses. "": every origin of no other source."""
        ...

    def read(self) -> Sequence[Change]:
        """Return what the source says now.

        Blocks. A fault of the source is a Change with a Problem, not an exception.
        """
        ...

    async def run(self, send: Send, config: Callable[[], NodeConfig]) -> None:
        """Send all that the source says, as one batch that is `whole`, then whatever changes, until cancelled.

        The first batch after `read` may reuse what `read` has returned. An exception is logged, and `run` is called
        again after a pause. `config` returns the settings in force, which change while it runs.
        """
        ...


@runtime_checkable
class Remote(Protocol):
    """A source that is another machine, whose `read` says nothing: what it said at the last run holds."""

    def remember(self, objects: Sequence[RawObject], mark: Mark) -> None:
        """Take what was saved at the last run: what this source said, and its mark. Called once, before `run`."""
        ...

    def mark(self) -> Mark:
        """Return what is to be saved with the objects that were sent."""
        ...

    def first_settings(self) -> Sequence[RawObject]:
        """Return the NodeConfigs, for a node that remembers nothing of this source.

        Blocks for two seconds at most. () if the machine cannot be asked.
        """
        ...

    @property
    def prefix(self) -> str: ...  # as of a Source

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong with the connection now."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what status shows of the connection."""
        ...

    def figures(self) -> Mapping[str, Figures]:
        """Return what was exchanged for each kind."""
        ...


def owner(sources: Sequence[Source], origin: str) -> Source:
    """Return the source whose changes have this origin: the one with the longest prefix that fits."""
    return max(
        (source for source in sources if origin.startswith(source.prefix)), key=lambda source: len(source.prefix)
    )
