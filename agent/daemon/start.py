"""Start of a daemon process: what its service manager or predecessor gives it, its admin socket, its Node."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct

from agent.admin.listener import AdminSocket, AdminSocketError, AlreadyRunningError
from agent.config.settings import Settings, environment
from agent.daemon import handover
from agent.daemon.handover import HandoverError, Predecessor
from agent.daemon.node import Node
from agent.sources.source import Options, Remote, Source
from agent.sources.sources import opened
from agent.store.disk import State
from agent.system import memory, private_memory
from agent.system.fd_store import FdStore
from agent.system.service_manager import ServiceManager

if TYPE_CHECKING:  # a node without a cluster should not load its client
    from agent.kubernetes.access import Access
    from agent.kubernetes.api import ApiServer

log = logging.getLogger("edgemesh")

# Seconds that a working thread (one reads the manifests) may keep the loop waiting. CPython's default is 5 ms.
_SWITCH = 0.0005
# Seconds that the daemon of a new pod waits for the old pod's, which stops. Ending instead would cost more: the kubelet
# waits longer before each start.
_OLD_POD = 60.0
# Seconds in which a daemon that has begun listens for the next pod's. An earlier version never does, and its pod is not
# ended before the new one is ready.
_DEAF = 15.0
_LOOK = 0.05  # seconds


def run(
    directory: Path | None,
    overrides: Mapping[str, Any],
    hold_authority: bool = False,
    access: Access | None = None,
) -> int:
    """Run the daemon until SIGTERM or SIGINT. Return the exit code.

    `directory`: of manifests. `access`: to the API server of the cluster that this node is of.
    """
    private_memory.keep_memory_private()
    sys.setswitchinterval(_SWITCH)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _raise_descriptor_limit()
    memory.few_arenas()
    api = api_server(access)
    known = _read(overrides, directory, api)
    supervisor = ServiceManager()
    try:
        before, admin, waited = _take_up(Path(known.settings.config.admin_socket), bool(environment().pod))
    except (HandoverError, AdminSocketError) as error:
        print(f"edgemesh: {error}", file=sys.stderr)
        return 1
    if waited:
        known = _read(overrides, directory, api, mine=before is None)  # the other daemon has written meanwhile
    given = {**supervisor.given, **(before.given if before else {})}
    kept = FdStore(
        {name: fds for name, fds in given.items() if not name.startswith("admin ")},
        supervisor,
        silent=before is not None,
    )
    admin.kept = before is not None  # until we lead
    try:
        node = Node(known.sources, known.settings, hold_authority, kept, before, known.state, api)
        trio.run(node.run, admin, strict_exception_groups=True)
    finally:
        admin.close()
    return 1 if node.unwanted else 0


class _Known(Struct):
    """What a daemon begins with: its sources, their settings, and what the run before has left on the disk."""

    sources: Sequence[Source]
    settings: Settings
    state: State


def _read(overrides: Mapping[str, Any], directory: Path | None, api: ApiServer | None, *, mine: bool = True) -> _Known:
    """Return that, read now. `mine`: no other daemon leads the node.

    Settings are needed before anything else runs; the first build reports their problems again.
    """
    settings = Settings(overrides)
    sources = opened(Options(directory, api))
    objects = [raw for source in sources for change in source.read() for raw in change.objects or ()]
    settings.read(objects)
    # A file that has a fault now may have been correct before the restart; that version stands in for it.
    state = State(Path(settings.config.state_dir), mine=mine)
    remembered = state.load()[0]
    settings.remember(remembered)
    for remote in (source for source in sources if isinstance(source, Remote)):
        # what it said at the last run holds until it speaks
        said = [raw for raw in remembered if raw.where.file.startswith(remote.prefix)]
        remote.remember(said, state.mark)
        objects += said or remote.first_settings()
    settings.read(objects)
    return _Known(sources, settings, state)


def _take_up(path: Path, in_pod: bool) -> tuple[Predecessor | None, AdminSocket, bool]:
    """Return the daemon that hands over to us, if one does, the admin socket, and whether another daemon was there.

    Raise HandoverError, AdminSocketError.
    """
    before = handover.predecessor()
    began = deaf_since = time.monotonic()
    told, asked = False, 0
    while True:
        try:
            if before is None and in_pod:
                before = handover.applied(path)
            return before, AdminSocket(path, before.given if before else None), told or before is not None
        except (HandoverError, AlreadyRunningError) as error:
            now = time.monotonic()
            if not in_pod or now >= began + _OLD_POD:
                raise
            if not told:
                log.info("waiting for the daemon of the pod before: %s", error)
            told = True
            if isinstance(error, HandoverError):  # it listens
                deaf_since = now
            elif not asked and now >= deaf_since + _DEAF:
                deaf_since = now
                if asked := handover.dismiss(path):
                    log.warning("process %d hands nothing over; it is asked to stop, and calls fail meanwhile", asked)
                    began = now
            time.sleep(_LOOK)


def api_server(access: Access | None) -> ApiServer | None:
    """Return the client of the cluster's API server, if the node is of a cluster."""
    if access is None:
        return None
    from agent.kubernetes.api import ApiServer

    return ApiServer(access)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors: a captured call takes two, and a login shell's limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
