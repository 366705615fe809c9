"""Who is in charge of this node: what exactly one daemon of it may do, and how another one takes that over.

Keeping the rules in force, certificates, the admin socket and the metrics are the business of one daemon at a time. It begins with
them at its start, or when its predecessor lets it (agent/handover.py); it lends them to a successor at an update, and either that
one is well and we end when our last connections have, or all of it is ours again.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from agent import health, httpd, thrift
from agent.admin.api import ACTIONS, PUBLIC, handler
from agent.admin.listener import AdminSocket
from agent.handover import HandoverError, Predecessor, Successor

if TYPE_CHECKING:
    from agent.app import Node
    from agent.config import UpdateConfig

log = logging.getLogger("edgemesh")

_LAST_ANSWER = 0.5  # seconds for who asked us to hand over to hear what came of it
_SETTLED = 5.0  # seconds of serving, after which memory that only the start needed is given back


class Charge:
    """Of one Node. It is `held` from when it may serve until a successor does."""

    def __init__(self, node: Node, admin: AdminSocket, nursery: trio.Nursery, before: Predecessor | None) -> None:
        self._node, self._admin, self._nursery, self._before = node, admin, nursery, before
        self.held = before is None
        self.given = False  # a successor has it; we only let our last connections end
        self._lending = False
        self._keeping = trio.CancelScope()
        self._again, self._paused = trio.Event(), trio.Event()
        self._certifying = trio.CancelScope()
        self._accepting = trio.CancelScope()  # of the admin socket and the metrics

    def __repr__(self) -> str:
        return f"<Charge {'held' if self.held else 'given' if self.given else 'awaited'}>"

    async def take(self) -> None:
        """Begin to serve: at once, or when the daemon that hands over to us lets us. Then say that we do.

        When it does not let us, the node is told to end (Node.unwanted).
        """
        node, supervisor = self._node, self._node.kept.supervisor
        self._nursery.start_soon(self._keep)
        if self._before is None:
            self._serve()
            await self._until_enforcing()
        else:
            try:
                await self._until_enforcing()
                await self._before.report(await health.fault(node, self._before.captured, self._before.identities), node.version)
            except HandoverError as error:
                log.error("we do not take over: %s", error)
                node.unwanted = True
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
        node.kept.forget_rest()
        supervisor.tell("READY=1", f"STATUS=edgemesh {node.version} enforces policy on {node.running.node}")
        self._nursery.start_soon(supervisor.watch, lambda: self.held)
        await trio.sleep(_SETTLED)
        await trio.to_thread.run_sync(thrift.give_back)

    async def _until_enforcing(self) -> None:
        while not self._node.enforcing:  # noqa: ASYNC110 - once in a life
            await trio.sleep(0.02)

    # what one daemon of a node does

    async def _keep(self) -> None:
        """The rules' keeper; it pauses while a successor has the ground."""
        while True:
            self._keeping = trio.CancelScope()
            with self._keeping:
                await self._node.ground.run()
            self._again = trio.Event()
            self._paused.set()
            await self._again.wait()
            self._paused = trio.Event()

    def _serve(self) -> None:
        self._nursery.start_soon(self._certify)
        self._nursery.start_soon(self._answer)

    async def _certify(self) -> None:
        """Certificates, and the authority."""
        self._certifying = trio.CancelScope()
        with self._certifying:
            await self._node.membership.run()

    async def _answer(self) -> None:
        """The admin socket and the metrics. Once we accept no more, who is in the middle of a question has a moment for it."""
        async with trio.open_nursery() as conversations:
            self._accepting = trio.CancelScope()
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        httpd.serve, self._admin.listener(), handler(self._node, actions=tuple(ACTIONS)), conversations, True
                    )
                    if (listener := self._node.metrics_listener()) is not None:
                        nursery.start_soon(httpd.serve, listener, handler(self._node, PUBLIC), conversations)
            while self._lending:  # noqa: ASYNC110 - once in a life
                await trio.sleep(0.02)
            conversations.cancel_scope.deadline = trio.current_time() + _LAST_ANSWER

    # giving it away

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        """Start `command` (this daemon's own arguments are added), and let it take over. Answers its version.

        `commit(version)` makes it the installed one when it has proved well; it may raise OSError. Raises HandoverError: nothing has
        changed then.
        """
        if self._lending:
            raise HandoverError("another update is under way")
        self._lending = True
        try:
            return await self._hand_over(command, commit, self._node.config.update)
        finally:
            self._lending = False

    async def _hand_over(self, command: Sequence[str], commit: Callable[[str], None], update: UpdateConfig) -> str:
        if self.held:
            with trio.move_on_after(update.deadline):  # a snapshot that has just come is settled first
                await self._until_enforcing()
        if not (self.held and self._node.enforcing):
            raise HandoverError(
                "another daemon is in charge of this node" if self.given else "this daemon does not enforce policy itself yet"
            )
        log.info("handing over to %s", command[0])
        try:
            self._keeping.cancel()
            await self._paused.wait()
            self._node.ground.lend()
            successor = Successor([*command, *sys.argv[1:]])
            try:
                version = await self._prove(successor, update.deadline)
                await trio.to_thread.run_sync(commit, version)  # a slow disk is no reason for connections to wait
                self._admin.kept = True
                self._certifying.cancel()
                self._accepting.cancel()
                await self._let_go(successor, update.deadline)
            except BaseException:
                await successor.kill()
                raise
        except (HandoverError, OSError) as error:
            self._take_back()
            log.error("not handed over: %s", error)
            raise HandoverError(str(error)) from error
        self.held, self.given = False, True
        successor.part()
        # It says so itself too; a manager that listens to the main process only (NotifyAccess=main) believes us alone.
        self._node.kept.supervisor.tell(f"MAINPID={successor.pid}")
        log.info("handed over to edgemesh %s, pid %d; draining for at most %g s", version, successor.pid, update.drain_timeout)
        self._nursery.start_soon(self._leave, update.drain_timeout)
        return version

    async def _prove(self, successor: Successor, deadline: float) -> str:
        """Lend it everything, and hear that it is well; its version. Raises HandoverError."""
        node = self._node
        with trio.move_on_after(deadline):
            captured = [key for key, condition in node.ground.conditions().items() if condition.captured]
            await successor.lend({**node.kept.everything(), **self._admin.descriptors()}, captured, health.identities(node))
            return await successor.well()
        raise HandoverError(f"it was not well within {deadline:g} s")

    async def _let_go(self, successor: Successor, deadline: float) -> None:
        with trio.move_on_after(deadline):
            await successor.go()
            return
        raise HandoverError(f"it did not take over within {deadline:g} s")

    def _take_back(self) -> None:
        self._admin.kept = False
        self._admin.own()
        self._node.kept.supervisor.tell(f"MAINPID={os.getpid()}")  # it may have said that it is the one
        self._again.set()
        if self._certifying.cancel_called:  # it may have served for a moment
            self._node.kept.say_again()
            self._serve()

    async def _leave(self, seconds: float) -> None:
        """Our successor serves: end when our last connections have, whose policy is kept until then."""
        await self._node.proxy.drain(handed=seconds)
        log.info("our last connections have ended")
        self._nursery.cancel_scope.cancel()
