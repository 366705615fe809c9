"""Leadership of a node: what only one daemon at a time may do, and how a successor takes it over.

The leader keeps the rules in force, renews certificates, and serves the admin socket and the metrics. A daemon leads
from its start, or from when its predecessor lets it (agent/daemon/handover.py). At an update it lends all of that to a
successor. Either the successor is healthy, and this daemon ends when its last connections have ended; or this daemon
takes everything back.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from agent.admin.daemon import Daemon
from agent.admin.listener import AdminSocket
from agent.config.settings import environment
from agent.daemon import takeover_checks
from agent.daemon.handover import Applicant, Door, HandoverError, Predecessor, Successor
from agent.daemon.tcp_port import NAMES
from agent.system import memory

if TYPE_CHECKING:
    from agent.cluster.leader import ClusterLeader
    from agent.config.schema import UpdateConfig
    from agent.daemon.listeners import Listener
    from agent.daemon.retention import Retention
    from agent.identity.membership import Membership
    from agent.kernel.capture import CaptureManager
    from agent.store.disk import State
    from agent.system.fd_store import FdStore
    from nodeproxy.housekeeping import Housekeeping
    from nodeproxy.proxy import Proxy

log = logging.getLogger("edgemesh")

_LAST_ANSWER = 0.5  # seconds in which the client that asked for the handover gets its response
_PROBLEMS = 10  # looks between two checks for new problems
_LOOK = 1.0  # seconds between looks at whether all is captured
_SETTLED = 5.0  # seconds of serving, after which memory that only the start needed is released


class Node(Daemon, Protocol):
    """The node as leadership needs it: the parts that run in one daemon at a time (implemented in node.py)."""

    @property
    def proxy(self) -> Proxy: ...
    @property
    def ground(self) -> CaptureManager: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def cluster_leader(self) -> ClusterLeader | None: ...
    @property
    def kept(self) -> FdStore: ...
    @property
    def housekeeping(self) -> Housekeeping: ...
    @property
    def state_in_words(self) -> str: ...
    @property
    def retention(self) -> Retention: ...
    @property
    def state_directory(self) -> State: ...
    async def save(self) -> None:
        """Write all that a restart is to know: another daemon may have written the state directory."""
        ...

    def tell_problems(self) -> int: ...
    def retire(self) -> None:
        """Note that this daemon was started to take over and must end instead."""


class Leadership:
    """Leadership of one node: `held` from when this daemon may act until its successor may."""

    def __init__(
        self,
        node: Node,
        listeners: Sequence[Listener],
        admin: AdminSocket,
        nursery: trio.Nursery,
        before: Predecessor | None,
    ) -> None:
        """`listeners`: served while this daemon leads. `before`: the daemon that hands over to us."""
        self._node, self._listeners, self._admin, self._nursery, self._before = node, listeners, admin, nursery, before
        self.held = before is None
        self.given = False  # a successor leads; we only wait for our last connections to end
        self._lending = False
        self._door = Door(admin.path) if environment().pod else None  # the next pod's daemon comes by itself
        self._adopting = False  # lending to the daemon of another pod, or it leads
        self._stopping = False
        self._keeping = trio.CancelScope()
        self._again, self._paused = trio.Event(), trio.Event()
        self._certifying, self._certified = trio.CancelScope(), trio.Event()
        self._accepting = trio.CancelScope()  # cancels accepting on the admin socket and the metrics port

    def __repr__(self) -> str:
        return f"<Leadership {'held' if self.held else 'given' if self.given else 'awaited'}>"

    async def take(self) -> None:
        """Begin to serve: at once, or when the predecessor lets us. Then report to the service manager.

        When the predecessor does not let us, the node is told to end.
        """
        node, supervisor = self._node, self._node.kept.supervisor
        self._nursery.start_soon(self._keep)
        if self._before is None:
            self._serve()
            await self._until_settled()
        else:
            try:
                await self._until_settled()
                await self._before.report(
                    await takeover_checks.fault(
                        node, node.ground.conditions(), self._before.captured, self._before.identities
                    ),
                    node.version,
                )
            except HandoverError as error:
                log.error("we do not take over: %s", error)
                node.retire()
                self._nursery.cancel_scope.cancel()
                return
            self._admin.kept = False
            self._admin.own()
            self.held = True
            node.proxy.open()
            self._serve()
            supervisor.tell(f"MAINPID={os.getpid()}")
            node.kept.speak()
            await self._before.opened()
            log.info("took over from pid %d", self._before.pid)
            self._nursery.start_soon(node.housekeeping.keep, "keeping what a restart needs", node.save)
        node.kept.forget_rest(spared=NAMES)  # their listeners have only begun
        # Ready does not mean that all is well: units that are workloads start after us, and are captured when they do.
        supervisor.tell("READY=1", f"STATUS=edgemesh {node.version}, {node.state_in_words}")
        keep = node.housekeeping.keep
        self._nursery.start_soon(keep, "telling the service manager", partial(supervisor.watch, lambda: self.held))
        self._nursery.start_soon(keep, "telling what state the node is in", self._tell_state)
        self._nursery.start_soon(self._settle)

    async def _settle(self) -> None:
        """Release the memory that only the start needed. Failing to is harmless."""
        await trio.sleep(_SETTLED)
        self._node.kept.forget_rest()
        try:
            await trio.to_thread.run_sync(memory.give_back)
        except Exception as error:
            log.info("memory of the start is not given back: %s", error)

    async def _until_settled(self) -> None:
        while not self._node.settled:  # noqa: ASYNC110 - once in a life
            await trio.sleep(0.02)

    async def _tell_state(self) -> None:
        """Tell the log and the service manager whenever the node begins or stops doing what its manifests ask.

        Also store what is captured, forget what is over, and log new problems.
        """
        node, told, looks = self._node, "", 0
        while not self.given:
            looks += 1
            if looks % _PROBLEMS == 0 and node.settled:
                node.tell_problems()
            words = node.state_in_words
            if node.settled and words != told:
                log.log(logging.WARNING if node.state == "degraded" else logging.INFO, "%s", words)
                node.kept.supervisor.tell(f"STATUS=edgemesh {node.version}, {words}")
                told = words
            if node.settled:
                node.retention.forget_lost()
            await node.retention.remember()
            await trio.sleep(_LOOK)

    # what only the leader does

    async def _keep(self) -> None:
        """Keep the rules in force; paused while a successor does."""
        while True:
            self._keeping = trio.CancelScope()
            with self._keeping:
                await self._node.housekeeping.keep("the rules' keeper", self._node.ground.run)
            self._again = trio.Event()
            self._paused.set()
            await self._again.wait()
            self._paused = trio.Event()

    def _serve(self) -> None:
        self._nursery.start_soon(self._certify)
        self._nursery.start_soon(self._answer)

    async def _certify(self) -> None:
        """Run certificates and the authority."""
        self._certifying, self._certified = trio.CancelScope(), (certified := trio.Event())
        keep, leader = self._node.housekeeping.keep, self._node.cluster_leader
        try:
            with self._certifying:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keep, "certificates", self._node.membership.run)
                    if leader is not None:
                        nursery.start_soon(keep, "leading the cluster", leader.run)
        finally:
            certified.set()

    async def _answer(self) -> None:
        """Serve every listener. After accepting stops, a request that has begun has a moment to end."""
        async with trio.open_nursery() as conversations:
            self._accepting = trio.CancelScope()
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    keep = self._node.housekeeping.keep
                    for listener in self._listeners:
                        nursery.start_soon(keep, listener.name, partial(listener.serve, self._node, conversations))
                    if self._door is not None:
                        serve = partial(self._door.serve, self._hand_over_to, conversations)
                        nursery.start_soon(keep, "the socket for the next pod", serve)
            while self._lending:  # noqa: ASYNC110 - once in a life
                await trio.sleep(0.02)
            conversations.cancel_scope.deadline = trio.current_time() + _LAST_ANSWER

    # handing it over

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        """Start `command` (this daemon's own arguments are added), and let it take over. Return its version.

        `commit(version)` installs its release once it has reported healthy; it may raise OSError. Raise HandoverError:
        nothing has changed then.
        """
        return await self._lend(command[0], partial(Successor, [*command, *sys.argv[1:]]), commit)

    async def _hand_over_to(self, applicant: Applicant) -> None:
        """Let the daemon of another pod take over. Raise HandoverError: nothing has changed then."""
        await self._lend(f"process {applicant.pid} of another pod", lambda: applicant, lambda _: None, adopting=True)

    async def stop(self) -> bool:
        """Begin no handover any more, and let one to another pod's daemon go to its end: who stops us waits for that pod.

        Return whether that daemon leads now. Then we end by ourselves, when our last connections have ended.
        """
        self._stopping = True
        while self._lending and self._adopting:  # noqa: ASYNC110 - once in a life
            await trio.sleep(0.02)
        return self.given and self._adopting

    async def _lend(
        self, to: str, start: Callable[[], Successor], commit: Callable[[str], None], adopting: bool = False
    ) -> str:
        if self._lending:
            raise HandoverError("another update is under way")
        if self._stopping:
            raise HandoverError("this daemon stops")
        self._lending, self._adopting = True, adopting
        try:
            return await self._hand_over(to, start, commit, self._node.config.update)
        finally:
            self._lending = False

    async def _hand_over(
        self, to: str, start: Callable[[], Successor], commit: Callable[[str], None], update: UpdateConfig
    ) -> str:
        if self.held and not self._adopting:  # the next pod's daemon asks again
            with trio.move_on_after(update.deadline):  # a snapshot that has just come is settled first
                await self._until_settled()
        if not (self.held and self._node.settled):
            raise HandoverError(
                "another daemon is in charge of this node"
                if self.given
                else "this daemon does not enforce policy itself yet"
            )
        log.info("handing over to %s", to)
        try:
            self._keeping.cancel()
            await self._paused.wait()
            self._node.ground.lend()
            await self._node.retention.remember()  # the successor reads what we have written
            successor = start()
            try:
                version = await self._prove(successor, update.deadline)
                await trio.to_thread.run_sync(commit, version)  # a slow disk must not make connections wait
                await self._leave_disk(update.deadline)
                self._admin.kept = True
                self._accepting.cancel()
                await self._let_go(successor, update.deadline)
            except BaseException:
                await successor.kill()
                raise
        except Exception as error:  # any error (no free thread, say): we keep the rules in force again
            self._take_back()
            log.error("not handed over: %s", error)
            raise HandoverError(str(error)) from error
        self.held, self.given = False, True
        successor.part()
        self._node.kept.close()  # else a port stays taken that the successor wants to open itself
        # The successor says so too; a manager that listens to the main process only (NotifyAccess=main) accepts it from
        # us alone.
        self._node.kept.supervisor.tell(f"MAINPID={successor.pid}")
        log.info(
            "handed over to edgemesh %s, pid %d; draining for at most %g s",
            version,
            successor.pid,
            update.drain_timeout,
        )
        self._nursery.start_soon(self._leave, update.drain_timeout)
        if isinstance(successor, Applicant):
            self._nursery.start_soon(self._end_with, successor)
        return version

    async def _prove(self, successor: Successor, deadline: float) -> str:
        """Lend it everything, and wait until it reports healthy. Return its version. Raise HandoverError."""
        node = self._node
        with trio.move_on_after(deadline):
            captured = sorted(key for key, condition in node.ground.conditions().items() if condition.captured)
            await successor.lend(
                {**node.kept.everything(), **self._admin.descriptors()}, captured, takeover_checks.identities(node)
            )
            return await successor.well()
        raise HandoverError(f"it was not well within {deadline:g} s")

    async def _leave_disk(self, deadline: float) -> None:
        """Write nothing any more, and wait until what is being written is: the successor writes the same files."""
        with trio.move_on_after(deadline):
            self._certifying.cancel()
            await self._certified.wait()
            self._node.state_directory.cede()
            await trio.to_thread.run_sync(self._node.state_directory.rest, abandon_on_cancel=True)
            return
        raise HandoverError(f"the disk took more than {deadline:g} s")

    async def _let_go(self, successor: Successor, deadline: float) -> None:
        with trio.move_on_after(deadline):
            await successor.go()
            return
        raise HandoverError(f"it did not take over within {deadline:g} s")

    def _take_back(self) -> None:
        self._admin.kept = False
        self._admin.own()
        self._node.kept.supervisor.tell(f"MAINPID={os.getpid()}")  # it may have claimed to be the main process
        self._again.set()
        if self._certifying.cancel_called:
            self._nursery.start_soon(self._certify)
        if self._accepting.cancel_called:  # it may have served for a moment
            self._node.kept.say_again()
            self._nursery.start_soon(self._answer)
        if not self._node.state_directory.mine:
            self._nursery.start_soon(self._node.housekeeping.keep, "keeping what a restart needs", self._node.save)

    async def _end_with(self, successor: Applicant) -> None:
        """End when our successor does: its next start needs the sockets and tables that we still hold."""
        await successor.ended()
        log.warning("the daemon that took over has ended; its next start takes over from nobody")
        self._nursery.cancel_scope.cancel()

    async def _leave(self, seconds: float) -> None:
        """End when our last connections have ended: our successor serves. Their policy is kept until then."""
        await self._node.proxy.drain(handed=seconds)
        log.info("our last connections have ended")
        while self._adopting and not self._stopping:  # noqa: ASYNC110 - once in a life
            # The kubelet would start our container again, which would take over from the daemon of the next pod.
            await trio.sleep(0.1)
        self._nursery.cancel_scope.cancel()
