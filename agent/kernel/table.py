"""Our table in one namespace: owned where the kernel supports it, otherwise watched and repaired.

An owned table (NFT_TABLE_F_OWNER with PERSIST, Linux 6.12 and later) refuses every change by other programs, also a
flush, and outlives the socket that owns it. OWNER alone would remove the table when we end, and so open the node: it is
never used. Without ownership the table is ordinary. We receive notifications of changes to the ruleset (`changed`),
read our table back, and install it again when it differs from what we wrote. Each such repair counts as a gap, because
a connection made meanwhile stays uncaptured.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket

from agent.kernel import nft
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from agent.kernel.ruleset import OURS, Name, Ruleset

log = logging.getLogger("edgemesh.kernel")

_GROUP_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES, as a bit of nl_groups
_TRIES = 3  # tries to write while another program writes too
# The errors of kernels without PERSIST.
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.EINVAL))


class Table:
    """A table, made and first `put` while the calling thread is in the namespace; its sockets stay there."""

    def __init__(
        self, name: str, allow_owned: bool = True, kept: socket.socket | None = None, table: Name = OURS
    ) -> None:
        """`kept`: the netlink socket by which an earlier daemon held the table, ours from now on."""
        self.name = name
        self._table = table
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
        """Replace the rules in force in one transaction. Raise NetlinkError; then the old rules stay in force."""
        if ruleset == self._ruleset:
            return
        if self._ruleset is not None and nft.differ_in_elements(self._ruleset, ruleset):
            with contextlib.suppress(OSError):  # another program changed the table: then it is written whole
                self._alter(self._ruleset, ruleset)
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
                log.info(
                    "%s: this kernel has no owned, persistent tables; foreign changes are repaired instead", self.name
                )
                self.owned = False
        if not self.owned:
            if self._events is None:
                self._events = Netlink(NETLINK_NETFILTER, _GROUP_NFTABLES)
            self._write(ruleset, self._events)
        self._ruleset = ruleset

    def _alter(self, before: Ruleset, ruleset: Ruleset) -> None:
        """Change elements of sets and nothing else. Raise NetlinkError."""
        if self._events is not None and self._events.heard(self._netlink.port):
            raise OSError(errno.ESTALE, "another program changed the rules meanwhile")
        nft.alter(self._netlink, self._table, before.sets, ruleset.sets)
        if self._events is not None:
            self._written = nft.fingerprint(self._netlink, self._table)
        self._ruleset = ruleset

    def _write(self, ruleset: Ruleset, events: Netlink) -> None:
        for _ in range(_TRIES):
            events.heard()
            nft.install(self._netlink, ruleset, owned=False)
            self._written = nft.fingerprint(self._netlink, self._table)
            if not events.heard(self._netlink.port):
                break  # what we read is what we wrote: no other program changed anything meanwhile

    def repair(self) -> bool:
        """Install an unowned table again if another program changed it. Return whether one had. Raise OSError."""
        if self._events is None or self._ruleset is None or not self._events.heard(self._netlink.port):
            return False
        if nft.fingerprint(self._netlink, self._table) == self._written:
            return False
        self.gaps += 1
        log.warning("%s: somebody changed our rules; put back", self.name)
        self._write(self._ruleset, self._events)
        return True

    async def changed(self) -> None:
        """Wait until the rulesets of the namespace change. Raise trio.ClosedResourceError when the table is closed."""
        import trio  # here and below: the program that the runtime starts at boot puts a table, and has no loop

        assert self._events is not None, "only of a table that is not owned"
        await trio.lowlevel.wait_readable(self._events.sock)

    @property
    def socket(self) -> socket.socket:
        """The netlink socket that holds the table."""
        return self._netlink.sock

    def lend(self) -> None:
        """Let another daemon use our socket.

        We do not use it meanwhile, and afterwards do not know which rules are in force.
        """
        self.lent = True
        self._ruleset = None

    def counted(self) -> int:
        """Return the number of UDP packets that passed."""
        return sum(self.counts())

    def counts(self) -> list[int]:
        """Return the number for each counting rule, in the order of the rules."""
        with contextlib.suppress(OSError):
            if self.lent:
                return []
            return nft.counted(self._netlink, "guard")
        return []

    def remove(self) -> None:
        """Remove the table."""
        with contextlib.suppress(OSError):
            nft.install(self._netlink, None, self.owned, self._table)
        self._ruleset = None

    def close(self) -> None:
        """Close our sockets; the rules stay in force."""
        self._netlink.close()
        if self._events is not None:
            import trio

            if trio.lowlevel.in_trio_run() and self._events.sock.fileno() >= 0:
                trio.lowlevel.notify_closing(self._events.sock)
            self._events.close()
