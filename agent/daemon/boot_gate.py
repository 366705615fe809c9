"""Keeps what the container runtime starts at boot: the program, and what it knows of the mesh (agent/nri/boot_files.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from msgspec import structs

from agent.kernel.gate import Gate
from agent.nri.boot_files import BootFiles, Known, marks
from agent.store.store import Store
from policy.model import Problem, Where

if TYPE_CHECKING:
    from agent.kubernetes.access import Access

log = logging.getLogger("edgemesh")

_LOOK = 2.0  # seconds between looks at what is to be known
_HINT = "mount the node's /opt/nri here, or set NodeConfig kubernetes.bootGate: off; until then pods that begin before this daemon are open after a reboot"


class BootGate:
    """`run` keeps the files until cancelled. `problems`: what is wrong with them."""

    def __init__(
        self,
        store: Store,
        gate: Gate,
        wanted: Callable[[], bool | None],
        access: Access | None = None,
        files: BootFiles | None = None,
    ) -> None:
        """`wanted`: whether the runtime is to start the program; False: it is removed; None: it is left as it is.

        `access`: to the API server of the cluster, which the program asks when we do not run.
        """
        self._store, self._gate, self._wanted = store, gate, wanted
        self._files = files or BootFiles()
        self._access = _asked_with(access)
        self.problems: tuple[Problem, ...] = ()
        self._installed: bool | None = None
        self._saved: Known | None = None

    async def run(self) -> None:
        self._installed, self._saved = None, None  # a daemon that was to take over may have written other ones
        while True:
            try:
                await trio.to_thread.run_sync(self.settle, self._wanted(), self._known())
                self.problems = ()
            except OSError as error:
                message = f"the program for the boot cannot be kept: {error.filename or ''} {error.strerror or error}"
                self.problems = (Problem("warning", Where(), "NodeConfig kubernetes.bootGate", message, _HINT),)
            await trio.sleep(_LOOK)

    def _known(self) -> Known:
        namespaces = {name: marks(found.labels, found.annotations) for name, found in self._store.all_marks().items()}
        return structs.replace(self._access, ranges=tuple(sorted(self._gate.ranges)), namespaces=namespaces)

    def settle(self, wanted: bool | None, known: Known) -> None:
        """Bring the files in line. Raise OSError."""
        if wanted is None:
            return
        if not wanted:
            if self._installed is not False and self._files.remove():
                log.info("%s is removed", self._files.program)
            self._installed = False
            return
        if known != self._saved and self._store.published is not None:
            self._files.save(known)
            self._saved = known
        if not self._installed and self._saved is not None:
            if self._files.install():
                log.info("%s is written: the container runtime starts it from its next start on", self._files.program)
            self._installed = True


def _asked_with(access: Access | None) -> Known:
    """Return how the program asks as we do. No secret is in it."""
    if access is None:
        return Known()
    if access.files:
        return Known(kubeconfig=tuple(map(str, access.files)), context=access.context)
    return Known(server=f"{access.host}:{access.port}")
