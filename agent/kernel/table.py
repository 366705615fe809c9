"""Our table in one namespace: in force, owned where the kernel lets us, watched and repaired where it does not.

An owned table (NFT_TABLE_F_OWNER with PERSIST, Linux 6.12 and later) refuses every foreign change, a flush too, and outlives the
socket that owns it. OWNER alone would vanish with us and open the node, so it is never used. Elsewhere the table is ordinary: what
happens to the ruleset is heard (`changed`), ours is read back, and put in force again when it is not what we wrote; each time is a
gap, because a connection made meanwhile stays uncaptured.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket

import trio

from agent.kernel import nft
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from nodeproxy.ruleset import Ruleset

log = logging.getLogger("edgemesh.kernel")

_GROUP_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES, as a bit of nl_groups
_TRIES = 3  # to write while somebody else writes too
# How kernels without PERSIST say so.
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.EINVAL))


class Table:
    """Made, and `put` for the first time, while the calling thread is in the namespace; its sockets stay there."""

    def __init__(self, name: str, allow_owned: bool = True, kept: socket.socket | None = None) -> None:
        """`kept`: the netlink socket by which an earlier daemon held the table, ours from now on."""
        self.name = name
        self.owned = allow_owned
        self.gaps = 0
        self.lent = False
        self._netlink = Netlink(NETLINK_NETFILTER, kept=kept)
        self._events: Netlink | None = None
        self._ruleset: Ruleset | None = None
        self._written: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Table in {self.name}, {'owned' if self.owned else f'{self.gaps} gaps'}>"

    def put(self, ruleset: Ruleset) -> None:
        """Replace what is in force in one transaction. Raises NetlinkError; what was in force stays then."""
        if ruleset == self._ruleset:
            return
        self.lent = False
        if self.owned:
            try:
                nft.install(self._netlink, ruleset, owned=True)
            except NetlinkError as error:
                if error.errno == errno.EPERM:
                    raise NetlinkError(
                        errno.EPERM, "the table is another program's: another edgemesh runs here, or we are not root"
                    ) from error
                if error.errno not in _UNSUPPORTED:
                    raise
                log.info("%s: this kernel has no owned, persistent tables; foreign changes are repaired instead", self.name)
                self.owned = False
        if not self.owned:
            if self._events is None:
                self._events = Netlink(NETLINK_NETFILTER, _GROUP_NFTABLES)
            self._write(ruleset, self._events)
        self._ruleset = ruleset

    def _write(self, ruleset: Ruleset, events: Netlink) -> None:
        for _ in range(_TRIES):
            events.heard()
            nft.install(self._netlink, ruleset, owned=False)
            self._written = nft.fingerprint(self._netlink)
            if not events.heard(self._netlink.port):
                break  # what was read is what we wrote: nobody else changed anything meanwhile

    def repair(self) -> bool:
        """Where the table is not owned: put it in force again if somebody changed it. Answers whether somebody had. Raises OSError."""
        if self._events is None or self._ruleset is None or not self._events.heard(self._netlink.port):
            return False
        if nft.fingerprint(self._netlink) == self._written:
            return False
        self.gaps += 1
        log.warning("%s: somebody changed our rules; put back", self.name)
        self._write(self._ruleset, self._events)
        return True

    async def changed(self) -> None:
        """Wait until something happens to the rulesets of the namespace. Raises trio.ClosedResourceError when we let go."""
        assert self._events is not None, "only of a table that is not owned"
        await trio.lowlevel.wait_readable(self._events.sock)

    @property
    def socket(self) -> socket.socket:
        """What holds the table."""
        return self._netlink.sock

    def lend(self) -> None:
        """Another daemon works with our socket: nothing is asked of it meanwhile, and what is in force is not known after."""
        self.lent = True
        self._ruleset = None

    def counted(self) -> int:
        """UDP packets that passed."""
        return sum(self.counts())

    def counts(self) -> list[int]:
        """The same for each counting rule, in the order of the rules."""
        with contextlib.suppress(OSError):
            if self.lent:
                return []
            return nft.counted(self._netlink, "guard")
        return []

    def remove(self) -> None:
        """Take the table away."""
        with contextlib.suppress(OSError):
            nft.install(self._netlink, None, self.owned)
        self._ruleset = None

    def close(self) -> None:
        """Let go; the rules stay."""
        self._netlink.close()
        if self._events is not None:
            if trio.lowlevel.in_trio_run() and self._events.sock.fileno() >= 0:
                trio.lowlevel.notify_closing(self._events.sock)
            self._events.close()
