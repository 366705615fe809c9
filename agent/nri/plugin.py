"""Our plugin of the container runtime: it hears of each pod before the pod's first process, and the runtime waits.

Theory of operation. While the runtime's NRI socket is there, one connection to it is kept. For a pod that begins, the
runtime waits for our answer, which comes when the pod is captured or known to be outside the mesh. The runtime calls its
plugins for one pod at a time, drops a plugin that does not answer within its limit (2 s), and starts the pod then. So the
answer always comes well before that, also when the pod is not ready: the gate keeps it mute (agent/kernel/gate.py). A
runtime without NRI is followed by what it writes (agent/kernel/sandboxes.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Protocol

import trio
from msgspec import structs

from agent.kernel.sandbox import Sandbox
from agent.nri import frames, messages
from agent.nri.protobuf import MalformedError

log = logging.getLogger("edgemesh.nri")

# Where containerd and CRI-O have it, whichever started them.
SOCKETS = ("/run/nri/nri.sock", "/var/run/nri/nri.sock")
NAME, INDEX = "edgemesh", "10"
_PATIENCE = 1.0  # seconds for which a pod that begins is waited for at most
_SHARE = 0.5  # of the runtime's limit, likewise
_REGISTRATION = 4.0  # seconds until the runtime must have answered; its own limit is 5
_LOOK = 1.0  # seconds between looks for the socket
_LONGEST = 10.0  # seconds between tries to connect, at most
# how a connection ends
_LOST = (OSError, MalformedError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Ground(Protocol):
    """What a plugin needs of capture (implemented in agent/kernel/beginnings.py)."""

    def announce(self, sandbox: Sandbox) -> None:
        """Take what the runtime tells of a pod that begins."""
        ...

    def running(self, sandboxes: Sequence[Sandbox]) -> None:
        """Take what the runtime tells of pods that run already."""
        ...

    async def admitted(self, sandbox: Sandbox) -> None:
        """Wait until a pod that was announced may speak."""
        ...

    def departed(self, sandbox_id: str) -> None:
        """Take that a pod is gone."""
        ...


class Plugin:
    """`run` keeps the connection until cancelled. `runtime`: what is connected now; "" for nothing."""

    def __init__(self, ground: Ground, sockets: Sequence[str] = SOCKETS) -> None:
        self._ground, self._sockets = ground, sockets
        self.runtime = ""
        self.connected = False  # once at least: the runtime has NRI
        self.late = 0  # pods that were not ready when the runtime had to be answered

    def __repr__(self) -> str:
        return f"<Plugin of {self.runtime or 'no runtime'}>"

    async def run(self) -> None:
        pause = _LOOK
        while True:
            path = _there(self._sockets)
            if path:
                began = time.monotonic()
                try:
                    async with await trio.open_unix_socket(path) as stream:
                        await self.serve(stream)
                except (*_LOST, ExceptionGroup) as error:
                    log.warning("%s: %s; connecting again", path, _why(error))
                finally:
                    self.runtime = ""
                pause = _LOOK if time.monotonic() - began > _LONGEST else min(pause * 2, _LONGEST)
            await trio.sleep(pause if path else _LOOK)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Register on this connection, and answer until it ends. Raise MalformedError, trio.TooSlowError."""
        connection = _Connection(stream, self)
        with trio.move_on_after(_REGISTRATION) as registering:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    connection.send,
                    frames.request(1, messages.RUNTIME, "RegisterPlugin", messages.register(NAME, INDEX)),
                )
                await connection.answer(nursery, registering)
        if registering.cancelled_caught:
            raise trio.TooSlowError("the runtime did not answer the registration")

    async def begun(self, sandbox: Sandbox, limit: float) -> None:
        """Have a pod captured that begins, as far as there is time."""
        began = time.monotonic()
        with trio.move_on_after(min(_PATIENCE, limit * _SHARE)) as patience:
            self._ground.announce(sandbox)
            await self._ground.admitted(sandbox)
        if patience.cancelled_caught:
            self.late += 1
            then = "mute" if sandbox.netns else "open"
            log.warning("pod %s begins before it is known whether it may speak: it is %s until then", sandbox.pod, then)
        else:
            log.info("pod %s may speak after %.1f ms", sandbox.pod, (time.monotonic() - began) * 1000)

    def synchronize(self, sandboxes: Sequence[Sandbox]) -> None:
        self._ground.running(sandboxes)

    def ended(self, sandbox: Sandbox) -> None:
        self._ground.departed(sandbox.id)


class _Connection:
    def __init__(self, stream: trio.abc.Stream, plugin: Plugin) -> None:
        self._stream, self._plugin = stream, plugin
        self._sending = trio.Lock()
        self._limit = 2.0

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await self._stream.send_all(data)

    async def answer(self, nursery: trio.Nursery, registering: trio.CancelScope) -> None:
        """Answer requests until the connection ends. `registering`: a deadline that ends with the registration."""
        reader = frames.Reader()
        while data := await self._stream.receive_some(65536):
            for said in reader.feed(bytes(data)):
                if isinstance(said, frames.Request):
                    nursery.start_soon(self._answer, said)
                elif said.error:
                    raise MalformedError(f"the runtime refuses the plugin: {said.error}")
                else:
                    registering.deadline = float("inf")
        nursery.cancel_scope.cancel()
        log.info("%s closed the connection", self._plugin.runtime or "the runtime")

    async def _answer(self, request: frames.Request) -> None:
        payload = b""
        if request.method == "Configure":
            found = messages.configuration(request.payload)
            self._limit = found.limit
            self._plugin.connected = True
            self._plugin.runtime = f"{found.runtime} {found.version}"
            log.info("connected to %s", self._plugin.runtime)
            payload = messages.subscription()
        elif request.method == "Synchronize":
            synchronized = messages.synchronized(request.payload)
            self._plugin.synchronize([_now(sandbox) for sandbox in synchronized.sandboxes])
            payload = messages.synchronization(synchronized.more)
        else:
            event, sandbox = messages.event(request.method, request.payload)
            if sandbox is not None and event == messages.RUN_POD_SANDBOX and sandbox.netns:
                await self._plugin.begun(_now(sandbox), self._limit)
            elif sandbox is not None and event == messages.REMOVE_POD_SANDBOX:
                self._plugin.ended(sandbox)
        await self.send(frames.response(request.call, payload))


def _there(paths: Sequence[str]) -> str:
    return next((path for path in paths if os.path.exists(path)), "")


def _why(error: Exception) -> str:
    """Return why a connection ended. Raise what is a fault of ours."""
    if isinstance(error, ExceptionGroup):
        ends, faults = error.split(_LOST)
        if faults is not None:
            raise faults
        assert ends is not None
        return _why(ends.exceptions[0])
    return str(error) or type(error).__name__


def _now(sandbox: Sandbox) -> Sandbox:
    return structs.replace(sandbox, made=time.time_ns())
