"""A node's own certificates in the order of issue, and which of them the node has left behind. Pure.

A node may renew its own certificate also with one that is not valid now. It may hold any certificate that was issued to
it and that may have reached it: responses get lost, and requests are decided in another order than they were sent. Only
what the node shows proves what it has received. So it has left behind every certificate issued before the newest that
it has shown, and no other: a caller that comes with one of those has a copy.

The order is part of the serial number, so that it is known for a certificate that the ledger does not name: a ledger
may be restored from a backup, or lose its last lines in a power failure. Serial numbers of earlier versions have no
order; for those the ledger's order counts.

    20 bytes: 0x4e | 4 of the issuer's fingerprint | 6 of the order | 9 random

RFC 5280 section 4.1.2.2 allows at most 20 bytes, and a positive number.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from policy.model import canonical_serial

RANDOM = 9  # unguessable bytes of a serial number; public authorities must have 8 (CA/Browser Forum BR 7.1)
_MARK = "4e"  # no leading zero: the number has the same text everywhere
_ISSUER = slice(2, 10)  # hexadecimal digits
_ORDER = slice(10, 22)
_TELLS = re.compile(rf"{_MARK}[0-9a-f]{{38}}")
_MOST = (1 << 48) - 1
_KNOWN = 32  # certificates of a node after the one that it has shown: requests without a response so far


def serial(issuer: str, order: int, random: bytes) -> int:
    """Make a serial number.

    `issuer`: fingerprint of the issuer's own certificate. `order`: greater than that of all certificates issued before.
    """
    if len(random) != RANDOM:
        raise ValueError(f"a serial number has {RANDOM} random bytes")
    return int(f"{_MARK}{issuer[:8]}{min(order, _MOST):012x}{random.hex()}", 16)


def order_of(serial: str) -> int:
    """Return the order in a serial number; 0 when it has none: an earlier version or another authority made it.

    0 for text that is no serial number, too: the ledger may have rotted.
    """
    return int(serial[_ORDER], 16) if _TELLS.fullmatch(serial) else 0


def after(last: int, now: float) -> int:
    """Return the order of the next certificate: the time in milliseconds, but always greater than `last`.

    So the order goes on where a ledger was restored from a backup: what was issued since then has a smaller one.
    """
    return max(last + 1, int(now * 1000))


class Lineage:
    """The lineage of one node. Serial numbers may be written in any way."""

    __slots__ = ("_issued", "behind", "shown")

    def __init__(self) -> None:
        self.shown = ""  # the newest that the node has shown, or was enrolled with; canonical
        self.behind = 0  # certificates with this order, or a smaller one, are left behind, except `shown`
        self._issued: list[str] = []  # the known ones from `shown` on, in the order of issue

    def __repr__(self) -> str:
        return f"<Lineage from {self.shown or 'nothing'}, {len(self._issued)} known>"

    def __contains__(self, serial: str) -> bool:
        """Return whether the certificate is known, and not left behind."""
        return canonical_serial(serial) in self._issued

    def issue(self, serial: str) -> None:
        """Note that the certificate was issued after all others. The node may or may not receive it."""
        serial = canonical_serial(serial)
        if serial == self.shown:
            self._issued = []  # read from a journal: those before it are left behind
        elif 0 < order_of(serial) < self.behind:
            return
        self._issued = [*self._issued, serial][-_KNOWN:]

    def show(self, serial: str) -> None:
        """Note that the node has this one: it has left behind what was issued before."""
        if not self.is_news(serial):
            return
        self.shown = serial = canonical_serial(serial)
        known, place = self._issued, self._issued.index(serial) if serial in self._issued else 0
        # `shown` may have no order (an earlier version signed it): then those before it tell how far the node has come.
        self.leave_behind(max(map(order_of, [*known[:place], serial])))
        if serial in known:
            self._issued = known[place:]
        else:
            self._issued = [one for one in known if order_of(one) > order_of(serial)]

    def leave_behind(self, order: int) -> None:
        """Note that the node has left behind every certificate with this order, or a smaller one."""
        self.behind = max(self.behind, order)

    def is_news(self, serial: str) -> bool:
        """Return whether the certificate was issued after the one that the node has shown."""
        serial = canonical_serial(serial)
        if not serial or serial == self.shown:
            return False
        return not self.shown or serial in self._issued or order_of(serial) > self.behind

    def may_renew(self, serial: str, issuers: Collection[str]) -> bool:
        """Return whether the node can have this one and no newer one, as far as is known.

        `issuers`: fingerprints of the own certificates of our issuers.
        """
        serial = canonical_serial(serial)
        if serial and (serial == self.shown or serial in self._issued):
            return True
        ours = serial[_ISSUER] in {issuer[:8] for issuer in issuers}
        return ours and order_of(serial) > self.behind
