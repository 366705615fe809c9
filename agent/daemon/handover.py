"""At an update one daemon hands over to another on the same node, without a failed call.

The running daemon starts its successor as a child and lends it everything that is kept (agent/system/fd_store.py):
listening sockets, the sockets that hold our tables, the admin socket's lock. The successor reads the manifests, takes
the workloads over, and checks itself, without accepting any connection yet. Then it reports healthy.

Only then the old daemon installs the successor's release, lets it accept, stops accepting itself, and ends when its
last connections have ended. A successor that fails, dies or is too late is killed, and the old daemon goes on: it never
stopped serving. If the old daemon dies while it waits, so does the successor.

In a cluster the successor is the daemon of another pod, which the kubelet starts while the old pod still serves. It
connects to the socket beside the admin socket, and the same is lent to it. It is no child, so the old daemon holds a
pidfd of it: to kill it, and to end with it. While the old one drains it still holds sockets and tables, which the next
start would need if the new one died.

Messages go over a socket pair or that socket (SOCK_SEQPACKET), one JSON object in each, descriptors beside it.
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
import stat
import struct
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

log = logging.getLogger("edgemesh.handover")

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

_VARIABLE = "EDGEMESH_HANDOVER"  # descriptor of the successor's end
_MOST = 253  # descriptors that one message can have (SCM_MAX_FD)
_AT_ONCE = 200  # descriptors that we put into one message
_MESSAGE = 1 << 20  # bytes
_PATIENCE = 30.0  # seconds that a successor waits for a message of its predecessor
_LONGEST = 107  # bytes of a socket's path (unix(7))
_CREDENTIALS = struct.Struct("3i")  # struct ucred


class Word(Struct, omit_defaults=True):
    """One message. Its kind: lend (name, with descriptors), lent (all were), well, unwell (why), go, gone."""

    kind: str
    name: str = ""
    why: str = ""
    version: str = ""
    captured: list[str] = []  # with lent: the workloads that the old daemon has captured
    identities: list[str] = []  # with lent: the identities that it holds valid certificates for


class HandoverError(Exception):
    """The successor did not take over; the message says why."""


# the successor's side


class Predecessor:
    """The daemon that hands over to us. What it lent is in `given`, `captured` and `identities`."""

    def __init__(self, pair: socket.socket, pid: int = 0) -> None:
        """Wait, blocking, until everything has been lent. `pid`: of the daemon; 0: our parent. Raise HandoverError."""
        self.pid = pid or os.getppid()
        self.given: dict[str, list[int]] = {}
        self._pair = pair
        pair.settimeout(_PATIENCE)
        try:
            while True:
                # Not socket.recv_fds: it ignores its flags (Python 3.11), and our children would inherit all of the
                # descriptors.
                data, rights, flags, _ = pair.recvmsg(_MESSAGE, socket.CMSG_SPACE(_MOST * 4), socket.MSG_CMSG_CLOEXEC)
                for level, kind, numbers in rights:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        self.given.setdefault("", []).extend(array.array("i", numbers[: len(numbers) // 4 * 4]))
                if not data:
                    raise HandoverError("the daemon that runs has ended")
                if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                    raise HandoverError(
                        "not all that was handed over could be taken: too few descriptors may be open here"
                    )
                word = msgspec.json.decode(data, type=Word)
                if word.kind == "lent":
                    break
                if word.kind == "unwell":
                    raise HandoverError(word.why)
                self.given.setdefault(word.name, []).extend(self.given.pop("", ()))
        except (OSError, msgspec.MsgspecError, RecursionError, HandoverError) as error:
            pair.close()
            for descriptor in itertools.chain.from_iterable(self.given.values()):
                os.close(descriptor)
            raise HandoverError(f"nothing was handed over: {error}") from error
        for descriptor in self.given.pop("", ()):  # the last message carries none
            os.close(descriptor)
        self.captured, self.identities = word.captured, word.identities
        pair.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(pair)

    async def report(self, fault: str, version: str) -> None:
        """Report healthy (`fault` ""), and wait until we may serve. Raise HandoverError when we must end instead."""
        word = Word("unwell", why=fault) if fault else Word("well", version=version)
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(word))
        answer = Word("")
        with contextlib.suppress(OSError, msgspec.MsgspecError, RecursionError):
            answer = msgspec.json.decode(await self._stream.recv(_MESSAGE), type=Word)
        if fault or answer.kind != "go":
            self._stream.close()
            raise HandoverError(fault or "the daemon that runs did not want us")
        _end_with_parent(0)

    async def opened(self) -> None:
        """Report that we accept calls now: the old daemon may stop."""
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(Word("gone")))
        self._stream.close()


def _end_with_parent(number: int) -> None:
    """Have the kernel send us signal `number` when our parent ends, even if we hang; 0 turns that off.

    PR_SET_PDEATHSIG, prctl(2). "Parent" is the thread that started us: the daemon does that in its main one.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def predecessor(environment: dict[str, str] | os._Environ[str] = os.environ) -> Predecessor | None:
    """Return the daemon that hands over to us; None when it did not start this process. Raise HandoverError."""
    number = environment.pop(_VARIABLE, "")
    if not number.isdigit():
        return None
    try:
        pair = socket.socket(fileno=int(number))
    except OSError as error:
        raise HandoverError(f"{_VARIABLE}={number}: {error.strerror}") from error
    pair.set_inheritable(False)
    return Predecessor(pair)


def applied(admin: Path) -> Predecessor | None:
    """Ask the daemon of another pod, whose admin socket this is, to hand over. Return None when none listens.

    Raise HandoverError.
    """
    door = _door(admin)
    pair = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pair.settimeout(_PATIENCE)
        pair.connect(door)
        pid, user = _peer(pair)
        if user != os.geteuid() or not pid:
            raise HandoverError(f"{door} is not a daemon of ours: user {user}, process {pid}")
    except (FileNotFoundError, ConnectionRefusedError):
        pair.close()
        return None
    except OSError as error:
        pair.close()
        raise HandoverError(f"{door}: {error.strerror or error}") from error
    except HandoverError:
        pair.close()
        raise
    return Predecessor(pair, pid)


def dismiss(admin: Path) -> int:
    """Ask the daemon that holds the lock of this admin socket to stop, as the kubelet would. Return its process ID.

    It is of an earlier version, which has no socket for us, or that socket is broken. Return 0 when that daemon cannot
    be found, has ended, or runs in no pod: then a person or a service manager has begun it, and would begin it again.
    """
    try:
        lock = os.stat(f"{admin}.lock")
        number = int(Path(f"{admin}.lock").read_text("ascii"))
        handle = os.pidfd_open(number)
    except (OSError, ValueError, OverflowError):
        return 0
    try:
        # A number that was left in the file may be another process's by now. The handle is not.
        if number == os.getpid() or not (_is_in_pod(number) and _has_open(number, lock)):
            return 0
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except OSError:
        return 0
    finally:
        os.close(handle)
    return number


def _has_open(number: int, file: os.stat_result) -> bool:
    """Return whether a process has that file open. Raise OSError when that cannot be found out."""
    for name in os.listdir(folder := f"/proc/{number}/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.path.samestat(os.stat(f"{folder}/{name}"), file):
                return True
    return False


def _is_in_pod(number: int) -> bool:
    """Return whether a process is the daemon of a pod. Raise OSError when that cannot be found out."""
    return b"\0EDGEMESH_POD=" in b"\0" + Path(f"/proc/{number}/environ").read_bytes()


def _door(admin: Path) -> str:
    return f"{admin}.handover"


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end."""
    pid, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user


# the running daemon's side


class Successor:
    """A daemon that we started to take over from us."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raise HandoverError when it cannot be started."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The service manager watches it once it is the main process; until then we do.
        environment = {**os.environ, _VARIABLE: str(its.fileno())}
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[its.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: _end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one call of a loaded library
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
        """Lend it the descriptors. Raise HandoverError."""
        try:
            for name, numbers in descriptors.items():
                for start in range(0, len(numbers), _AT_ONCE):
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers[start : start + _AT_ONCE]))
                    await self._stream.sendmsg([msgspec.json.encode(Word("lend", name=name))], [rights])
            await self._stream.send(msgspec.json.encode(Word("lent", captured=captured, identities=identities)))
        except OSError as error:
            raise HandoverError(f"it could not be given what is kept: {error.strerror}") from error

    async def well(self) -> str:
        """Wait until it reports healthy. Return its version. Raise HandoverError when it reports a fault, or ends."""
        word = await self._hear()
        if word.kind != "well":
            raise HandoverError(word.why or "it did not say why")
        return word.version

    async def go(self) -> None:
        """Let it accept, and wait until it does. Raise HandoverError when it ended."""
        with contextlib.suppress(OSError):
            await self._stream.send(msgspec.json.encode(Word("go")))
        if (word := await self._hear()).kind != "gone":
            raise HandoverError(f"it said {word.kind[:20]!r} instead of taking over")

    def part(self) -> None:
        """Close our end: it goes on without us."""
        self._stream.close()

    async def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self._stream.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(self._process.wait)
            except RuntimeError:  # no thread can be started: it was killed, and ends at once
                self._process.wait()

    async def _hear(self) -> Word:
        data = b""
        with contextlib.suppress(OSError):
            data = await self._stream.recv(_MESSAGE)
        if data:
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                return msgspec.json.decode(data, type=Word)
        raise HandoverError(await self._end())

    async def _end(self) -> str:
        """Return how it ended, or broke off."""
        with trio.move_on_after(1):
            code = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
            return f"it ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; its log says more"
        return "it broke off"


class Applicant(Successor):
    """A daemon of another pod of this node, which asks to take over from us."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: its connection, ours from now on. Raise HandoverError when it is not to be trusted."""
        try:
            number, user = _peer(sock)
            self._handle = os.pidfd_open(number)
        except OSError as error:
            sock.close()
            raise HandoverError(f"the daemon that wants to take over has ended: {error.strerror}") from error
        self._number = number
        try:
            # It may open a socket that is root's alone, in a folder of the node. So it is root of the node already,
            # unless somebody passed the socket on: a process in a workload's network namespace gets nothing.
            if user != os.geteuid() or not os.path.samefile(f"/proc/{number}/ns/net", "/proc/self/ns/net"):
                raise PermissionError
        except OSError as error:
            os.close(self._handle)
            sock.close()
            raise HandoverError(f"process {number} of user {user} is no daemon of this node") from error
        sock.setblocking(False)
        self._stream = trio.socket.from_stdlib_socket(sock)

    @property
    def pid(self) -> int:
        return self._number

    async def refuse(self, why: str) -> None:
        """Say why it cannot take over."""
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            await self._stream.send(msgspec.json.encode(Word("unwell", why=why)))
        self.close()

    async def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self._stream.close()
        if self._handle < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self.ended()
        self.close()

    async def ended(self) -> None:
        """Wait until it has ended."""
        await trio.lowlevel.wait_readable(self._handle)

    def close(self) -> None:
        """Forget it."""
        self._stream.close()
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    async def _end(self) -> str:
        with trio.move_on_after(1):
            await self.ended()
            return "it ended; its log says more"
        return "it broke off"


class Door:
    """The socket, beside the admin socket, where the daemon of the next pod asks us to hand over."""

    def __init__(self, admin: Path) -> None:
        self._path = _door(admin)

    async def serve(self, hand_over: Callable[[Applicant], Awaitable[object]], conversations: trio.Nursery) -> None:
        """Accept until cancelled. `hand_over` runs in `conversations`; it may raise HandoverError. Raise OSError."""
        with self._listen() as sock:
            while True:
                connection, _ = await sock.accept()
                conversations.start_soon(self._welcome, connection, hand_over)

    async def _welcome(
        self, connection: trio.socket.SocketType, hand_over: Callable[[Applicant], Awaitable[object]]
    ) -> None:
        try:
            applicant = Applicant(socket.socket(fileno=connection.detach()))
        except HandoverError as error:
            log.warning("nothing is handed over: %s", error)
            return
        try:
            await hand_over(applicant)
        except HandoverError as error:
            await applicant.refuse(str(error))
        except Exception as error:  # it must not reach the nursery, where it would end the node's traffic
            log.exception("a handover broke off")
            await applicant.refuse(f"a fault of edgemesh itself: {error}")

    def _listen(self) -> trio.socket.SocketType:
        new = f"{self._path}.new"
        if len(os.fsencode(new)) > _LONGEST:
            raise OSError(f"{self._path}: a socket path may have {_LONGEST} bytes; set adminSocket to a shorter one")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            sock.bind(new)
            os.chmod(new, stat.S_IRUSR | stat.S_IWUSR)
            sock.listen(4)
            os.rename(new, self._path)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return trio.socket.from_stdlib_socket(sock)
