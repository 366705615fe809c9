"""Our table in one namespace: in force, owned where the kernel lets us, watched and repaired where it does not.

An owned table (NFT_TABLE_F_OWNER with PERSIST, Linux 6.12 and later) refuses every foreign change, a flush too, and outlives the
socket that owns it. OWNER alone would vanish with us and open the node, so it is never used. Elsewhere the table is ordinary: what
happens to the ruleset is heard, ours is read back, and put in force again when it is not what we wrote; each time is a gap, because
a connection made meanwhile stays uncaptured.
"""

from __future__ import annotations

import contextlib
import errno
import logging

from agent.kernel import nft
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from nodeproxy.ruleset import Ruleset

log = logging.getLogger("edgemesh.kernel")

_GROUP_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES, as a bit of nl_groups
# How kernels without PERSIST say so.
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.EINVAL))


class Table:
    """Made, and `put` for the first time, while the calling thread is in the namespace; its sockets stay there."""

    def __init__(self, name: str, allow_owned: bool = True) -> None:
        self.name = name
        self.owned = allow_owned
        self.gaps = 0
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._events: Netlink | None = None
        self._ruleset: Ruleset | None = None
        self._rules: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Table in {self.name}, {'owned' if self.owned else f'{self.gaps} gaps'}>"

    def put(self, ruleset: Ruleset) -> None:
        """Replace what is in force in one transaction. Raises NetlinkError; what was in force stays then."""
        if ruleset == self._ruleset:
            return
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
                self._events.sock.setblocking(False)
            nft.install(self._netlink, ruleset, owned=False)
            self._rules = nft.fingerprint(self._netlink)
        self._ruleset = ruleset

    def repair(self) -> bool:
        """Where the table is not owned: put it in force again if somebody changed it. Answers whether somebody had."""
        if self._events is None or self._ruleset is None or not self._heard():
            return False
        if nft.fingerprint(self._netlink) == self._rules:
            return False
        self.gaps += 1
        log.warning("%s: somebody changed our rules; put back", self.name)
        nft.install(self._netlink, self._ruleset, owned=False)
        self._rules = nft.fingerprint(self._netlink)
        self._heard()  # our own change
        return True

    def _heard(self) -> bool:
        assert self._events is not None
        heard = False
        while True:
            try:
                self._events.sock.recv(1 << 16)
            except BlockingIOError:
                return heard
            except OSError:  # more happened than the buffer holds
                pass
            heard = True

    def counted(self) -> int:
        """UDP packets that passed."""
        with contextlib.suppress(OSError):
            return nft.counted(self._netlink)
        return 0

    def remove(self) -> None:
        """Take the table away."""
        with contextlib.suppress(OSError):
            nft.install(self._netlink, None, self.owned)
        self._ruleset = None

    def close(self) -> None:
        """Let go; the rules stay."""
        self._netlink.close()
        if self._events is not None:
            self._events.close()
