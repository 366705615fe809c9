"""The program that containerd starts before it serves a pod: it puts the gate in force, and lets others than the mesh's speak.

Theory of operation. It runs as long as containerd does, on a connection that containerd gave it. At its start it makes
the gate, unless one is there. While a daemon runs, that owns the gate, and the kernel refuses every change of ours. While
none runs, a pod outside the mesh is let speak, and a pod of the mesh stays mute until a daemon is there. Which it is, is
told by what the daemon wrote of the Namespaces (boot_files.py); but a Namespace may have joined the mesh since. So where
that would let a pod speak, the API server is asked first (inquiry.py). A second thread asks, since containerd calls for
one pod at a time and gives up on who does not answer: it is answered after half a second at the latest. A pod of which
nothing is known yet stays mute, and is asked about every second.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading

from agent.kernel import netns, nft
from agent.kernel.gate import Gate
from agent.kernel.links import wires
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from agent.kernel.ruleset import GATE
from agent.kernel.sandbox import Sandbox
from agent.kernel.sandboxes import Sandboxes
from agent.nri import frames, messages
from agent.nri.boot_files import INDEX_NAME, BootFiles
from agent.nri.inquiry import Inquiry, UnansweredError
from agent.nri.protobuf import MalformedError
from policy import enrolment
from policy.enrolment import Marks

_WAIT = 0.5  # seconds that the runtime waits for the API server's answer; its own limit is 2
_AGAIN = 1.0  # seconds until the API server is asked again
_MOST = 4096  # pods that are asked about


def run(connection: str) -> int:
    """Serve until the runtime ends. `connection`: the number of its descriptor. Return the exit code."""
    try:
        sock = socket.socket(fileno=int(connection))
    except (ValueError, OSError) as error:
        print(f"edgemesh: descriptor {connection} of the container runtime: {error}", file=sys.stderr)
        return 1
    with sock:
        sock.setblocking(True)
        boot = Boot(BootFiles(), Sandboxes(), Inquiry())
        threading.Thread(target=boot.ask, name="asking", daemon=True).start()
        try:
            boot.serve(sock)
        except (OSError, MalformedError) as error:
            print(f"edgemesh: {error}", file=sys.stderr)
            return 1
    return 0


class Boot:
    def __init__(self, files: BootFiles, sandboxes: Sandboxes, inquiry: Inquiry) -> None:
        self._files, self._sandboxes, self._inquiry = files, sandboxes, inquiry
        self._ranges: set[str] | None = None  # those in force, as far as we put them
        self._turn = threading.Condition()
        self._doubtful: dict[str, Sandbox] = {}  # by id: pods that the API server is to be asked about
        self._told = ""

    def serve(self, sock: socket.socket) -> None:
        """Answer until the connection ends. Raise OSError, MalformedError."""
        self.close()
        index, _, name = INDEX_NAME.partition("-")
        sock.sendall(frames.request(1, messages.RUNTIME, "RegisterPlugin", messages.register(name, index)))
        reader = frames.Reader()
        while data := sock.recv(65536):
            for said in reader.feed(data):
                if isinstance(said, frames.Request):
                    sock.sendall(frames.response(said.call, self._answer(said)))
                elif said.error:
                    raise MalformedError(f"the runtime refuses the plugin: {said.error}")

    def _answer(self, request: frames.Request) -> bytes:
        if request.method == "Configure":
            return messages.subscription()
        if request.method == "Synchronize":
            synchronized = messages.synchronized(request.payload)
            for running in synchronized.sandboxes:
                self._inquiry.met(running)
                self.judge(running)
            return messages.synchronization(synchronized.more)
        event, sandbox = messages.event(request.method, request.payload)
        if sandbox is not None and event == messages.RUN_POD_SANDBOX:
            self._inquiry.met(sandbox)
            self.close()
            self.judge(sandbox, _WAIT)
        elif sandbox is not None and event == messages.REMOVE_POD_SANDBOX:
            self._inquiry.gone(sandbox.id)
            self._decided(sandbox)
        return b""

    def close(self) -> None:
        """Put the gate in force where there is none, and with ranges that it did not have."""
        recorded = (sandbox for sandbox in self._sandboxes.read().values() if sandbox.name)
        ranges = {*self._files.load().ranges, *(network for sandbox in recorded for network in sandbox.networks)}
        if ranges == self._ranges:
            return
        gate = Gate()
        gate.ranges = ranges
        gate.put()
        gate.release(open_node=False)
        if not gate.fault:
            self._ranges = ranges
        elif self._ranges is None:
            # A daemon owns the gate, and knows the ranges; or there can be none.
            print(f"edgemesh: {gate.fault}", file=sys.stderr)

    def judge(self, sandbox: Sandbox, patience: float = 0.0) -> None:
        """Let a pod speak that is not of the mesh. Never raises OSError: it stays mute then.

        `patience`: seconds to wait where the API server has to be asked.
        """
        if not sandbox.netns:
            return
        known = self._files.load()
        around = known.namespaces.get(sandbox.namespace)
        if sandbox.namespace in enrolment.NEVER:
            self._open(sandbox)
        elif around is not None and _enrolled(sandbox, Marks(*around)):
            return
        elif known.server or known.kubeconfig:
            with self._turn:
                self._doubtful[sandbox.id] = sandbox
                while len(self._doubtful) > _MOST:
                    del self._doubtful[next(iter(self._doubtful))]
                self._turn.notify_all()
                if patience and not _held():
                    self._turn.wait_for(lambda: sandbox.id not in self._doubtful, patience)
        elif around is not None:
            self._open(sandbox)  # no API server has Namespaces: they are in the daemon's files

    def ask(self) -> None:
        """Ask the API server about those pods that are in doubt, for ever."""
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._doubtful)
                doubtful = tuple(self._doubtful.values())
            self.look(doubtful)
            with self._turn:
                if not self._doubtful.keys() - {sandbox.id for sandbox in doubtful}:
                    self._turn.wait(_AGAIN if self._doubtful else 0)

    def look(self, doubtful: tuple[Sandbox, ...]) -> None:
        """Ask once about these pods. While a daemon holds the gate it lets them speak, and nobody is asked."""
        if _held():
            passed = _passed()
            for sandbox in doubtful:
                try:
                    speaks = passed.issuperset(_ends(sandbox))
                except OSError:
                    speaks = True  # it is gone
                if speaks:
                    self._decided(sandbox)
            return
        known = self._files.load()
        answers: dict[str, Marks | None] = {}
        for sandbox in doubtful:
            if sandbox.namespace not in answers:
                try:
                    answers[sandbox.namespace] = self._inquiry.ask(known, sandbox.namespace)
                except UnansweredError as error:
                    self._tell(f"new pods stay mute until the API server answers or a daemon runs: {error}")
                    return
            around = answers[sandbox.namespace]
            if around is None or _enrolled(sandbox, around) or self._open(sandbox):
                self._decided(sandbox)

    def _decided(self, sandbox: Sandbox) -> None:
        with self._turn:
            if self._doubtful.pop(sandbox.id, None) is not None:
                self._turn.notify_all()

    def _open(self, sandbox: Sandbox) -> bool:
        """Let a pod speak. Return False where a daemon has come meanwhile. Never raises OSError: it stays mute then."""
        try:
            ends = _ends(sandbox)
            with Netlink(NETLINK_NETFILTER) as netlink:
                nft.add_interfaces(netlink, GATE, "known", ends)
        except NetlinkError as error:
            if error.errno == errno.EPERM:
                return False  # a daemon runs, and judges itself
            if error.errno != errno.ENOENT:  # there is no gate
                self._tell(f"pod {sandbox.pod} stays mute: {error}")
        except OSError as error:
            self._tell(f"pod {sandbox.pod} stays mute: {error}")
        return True

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            print(f"edgemesh: {text}", file=sys.stderr)


def _enrolled(sandbox: Sandbox, around: Marks) -> bool:
    return enrolment.of_pod(sandbox.namespace, around, Marks(sandbox.labels or {}, sandbox.annotations or {})).enrolled


def _held() -> bool:
    """Return whether a daemon holds the gate, so that no change of ours is taken."""
    with contextlib.suppress(OSError), Netlink(NETLINK_NETFILTER) as netlink:
        return nft.held(netlink, GATE)
    return False


def _passed() -> set[int]:
    with contextlib.suppress(OSError), Netlink(NETLINK_NETFILTER) as netlink:
        return set(nft.interfaces(netlink, GATE, "known"))
    return set()


def _ends(sandbox: Sandbox) -> tuple[int, ...]:
    """Return the node's ends of a pod's interfaces. Raise OSError."""
    namespace = netns.Namespace(sandbox.netns)
    try:
        return wires(namespace)[1]
    finally:
        namespace.close()
