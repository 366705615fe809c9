"""One daemon hands over to another on the same node, at an update: nobody who calls meanwhile notices.

The daemon that runs starts its successor as a child and lends it everything that is kept (agent/kept.py): listening sockets, the
sockets that hold our tables, the admin socket's lock. The successor reads the manifests, takes the workloads over, and checks
itself, without accepting anything yet; then it says that it is well. Only then the old one makes it the installed one, lets it
accept, stops accepting itself, and ends when its last connections have. A successor that fails, dies or is too late is killed, and
the old one goes on where it was: it never stopped serving. Should the old one die while it waits, so does the successor.

Over a socket pair (SOCK_SEQPACKET), one JSON object in each message, descriptors beside it.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence

import msgspec
import trio
from msgspec import Struct

log = logging.getLogger("edgemesh.handover")

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

_VARIABLE = "EDGEMESH_HANDOVER"  # descriptor of the successor's end
_MOST = 253  # descriptors in one message (SCM_MAX_FD)
_AT_ONCE = 200  # descriptors in one message
_MESSAGE = 1 << 20  # bytes
_PATIENCE = 30.0  # seconds that a successor waits for what it is given


class Word(Struct, omit_defaults=True):
    """One message. Its kind: lend (name, with descriptors), lent (all was), well, unwell (why), go, gone."""

    kind: str
    name: str = ""
    why: str = ""
    version: str = ""
    captured: list[str] = []  # with lent: the workloads that the old one has captured
    identities: list[str] = []  # with lent: those that it holds good certificates for


class HandoverError(Exception):
    """The successor did not take over; the message says why."""


# the successor's side


class Predecessor:
    """The daemon that started us. What it lent is in `given`, `captured` and `identities`."""

    def __init__(self, pair: socket.socket) -> None:
        """Blocks until all has been lent. Raises HandoverError."""
        self.pid = os.getppid()
        self.given: dict[str, list[int]] = {}
        self._pair = pair
        pair.settimeout(_PATIENCE)
        try:
            while True:
                # Not socket.recv_fds: it drops its flags (Python 3.11), and our children would inherit all of them.
                data, rights, flags, _ = pair.recvmsg(_MESSAGE, socket.CMSG_SPACE(_MOST * 4), socket.MSG_CMSG_CLOEXEC)
                for level, kind, numbers in rights:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        self.given.setdefault("", []).extend(array.array("i", numbers[: len(numbers) // 4 * 4]))
                if not data:
                    raise HandoverError("the daemon that runs has ended")
                if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                    raise HandoverError("not all that was handed over could be taken: too few descriptors may be open here")
                word = msgspec.json.decode(data, type=Word)
                if word.kind == "lent":
                    break
                self.given.setdefault(word.name, []).extend(self.given.pop("", ()))
        except (OSError, msgspec.MsgspecError, HandoverError) as error:
            pair.close()
            for descriptor in itertools.chain.from_iterable(self.given.values()):
                os.close(descriptor)
            raise HandoverError(f"nothing was handed over: {error}") from error
        for descriptor in self.given.pop("", ()):  # beside the last word there is none
            os.close(descriptor)
        self.captured, self.identities = word.captured, word.identities
        pair.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(pair)

    async def report(self, fault: str, version: str) -> None:
        """Say that we are well (`fault` "") and wait until we may serve. Raises HandoverError when we are to end instead."""
        word = Word("unwell", why=fault) if fault else Word("well", version=version)
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(word))
        answer = Word("")
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            answer = msgspec.json.decode(await self._stream.recv(_MESSAGE), type=Word)
        if fault or answer.kind != "go":
            self._stream.close()
            raise HandoverError(fault or "the daemon that runs did not want us")
        _end_with_parent(0)

    async def opened(self) -> None:
        """Say that we accept calls now: the old one may stop."""
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(Word("gone")))
        self._stream.close()


def _end_with_parent(number: int) -> None:
    """Have the kernel send us a signal when our parent ends, also one that hangs; 0: no more of that (PR_SET_PDEATHSIG, prctl(2)).

    "Parent" is the thread that started us: the daemon does that in its main one.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def predecessor(environment: dict[str, str] | os._Environ[str] = os.environ) -> Predecessor | None:
    """Who hands over to us; None when we start by ourselves. Raises HandoverError."""
    number = environment.pop(_VARIABLE, "")
    if not number.isdigit():
        return None
    try:
        pair = socket.socket(fileno=int(number))
    except OSError as error:
        raise HandoverError(f"{_VARIABLE}={number}: {error.strerror}") from error
    pair.set_inheritable(False)
    return Predecessor(pair)


# the side of the one that runs


class Successor:
    """A daemon that we started, to take over from us."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises HandoverError when it cannot be started."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The service manager watches over it as soon as it is the main process; until then it is ours.
        environment = {**os.environ, _VARIABLE: str(its.fileno())}
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[its.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: _end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one call of the C library, which is loaded already
            )
        except OSError as error:
            ours.close()
            raise HandoverError(f"{command[0]} cannot be started: {error.strerror}") from error
        finally:
            its.close()
        ours.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def lend(self, descriptors: Mapping[str, Sequence[int]], captured: list[str], identities: list[str]) -> None:
        """Raises HandoverError."""
        try:
            for name, numbers in descriptors.items():
                for start in range(0, len(numbers), _AT_ONCE):
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers[start : start + _AT_ONCE]))
                    await self._stream.sendmsg([msgspec.json.encode(Word("lend", name=name))], [rights])
            await self._stream.send(msgspec.json.encode(Word("lent", captured=captured, identities=identities)))
        except OSError as error:
            raise HandoverError(f"it could not be given what is kept: {error.strerror}") from error

    async def well(self) -> str:
        """Wait until it says that it is well; its version. Raises HandoverError when it says otherwise, or ends."""
        word = await self._hear()
        if word.kind != "well":
            raise HandoverError(word.why or "it did not say why")
        return word.version

    async def go(self) -> None:
        """Let it accept, and wait until it does. Raises HandoverError when it ended."""
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(Word("go")))
        if (word := await self._hear()).kind != "gone":
            raise HandoverError(f"it said {word.kind[:20]!r} instead of taking over")

    def part(self) -> None:
        """It goes on without us."""
        self._stream.close()

    async def kill(self) -> None:
        """Make sure that it has ended."""
        self._stream.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._process.wait)

    async def _hear(self) -> Word:
        data = b""
        with contextlib.suppress(OSError):
            data = await self._stream.recv(_MESSAGE)
        if data:
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(data, type=Word)
        with trio.move_on_after(1):
            code = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
            raise HandoverError(f"it ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; its log says more")
        raise HandoverError("it broke off")
