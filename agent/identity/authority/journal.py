"""The journal: what the authority has issued, to which node, and which roots each node has fetched. One line an event.

Events are appended, so that a certificate costs the flash one line. Once the file has grown to twice of what it says,
it is rewritten without the events that no longer matter.

It decides no request of a node whose certificate is valid: without a journal the authority goes on signing. It does
decide whether a node that comes with one that is not valid has left that one behind (lineage.py), and it is asked
before a root is retired. So what is missing from it must be known: a `Gap` says until when.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.identity.folder import Folder
from agent.identity.lineage import Lineage, after, order_of
from policy.model import canonical_serial

log = logging.getLogger("edgemesh.authority")

FILE = "ledger.jsonl"
DAMAGED = "ledger.damaged"
SITE = "site authority"  # stands in place of the SPIFFE ID in the entry of a site's intermediate

_KEPT = 8  # certificates of one (node, identity) at most: the newest, and older ones that are still valid
_PAIRS = 20_000  # pairs of node and identity; above that, those whose certificates have expired go first
_SLACK = 256  # lines that the file may have beyond twice of what it says


# Flash rots: a line whose serial number is not hexadecimal counts as damaged. OpenSSL writes a negative one as -0A:
# RFC 5280 forbids it, but another authority's certificate may have it.
Serial = Annotated[str, Meta(pattern="^-?[0-9A-Fa-f:]*$")]


class Signed(Struct, frozen=True, tag="signed", tag_field="event"):
    """A certificate was issued."""

    serial: Serial
    spiffe: str
    node: str
    not_after: float
    root: str  # fingerprint of the root that it leads to
    at: float = 0.0
    before: Serial = ""  # node's own only: serial of the certificate that it asked with; "" when it was enrolled


class Joined(Struct, frozen=True, tag="joined", tag_field="event"):
    """A node was enrolled, or enrolled again."""

    node: str
    at: float


class Fetched(Struct, frozen=True, tag="fetched", tag_field="event"):
    """A node received these roots."""

    node: str
    roots: tuple[str, ...]
    at: float
    shown: Serial = ""  # serial of the certificate that it asked with; "" when it showed none
    behind: int = 0  # the node has left behind its certificates up to this order; in a journal that was rewritten


class Gap(Struct, frozen=True, tag="gap", tag_field="event"):
    """Certificates issued until `at` may be missing."""

    at: float


Event = Signed | Joined | Fetched | Gap
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Event)


class Enrolled(Struct):
    since: float = 0.0
    roots: tuple[str, ...] = ()
    fetched: float = 0.0  # when the node first received `roots`


class Journal:
    """The journal in memory. The caller holds the folder's lock."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lines = 0
        self._torn = False  # the last line has no newline
        self.signed: dict[tuple[str, str], list[Signed]] = {}  # by (node, spiffe), oldest first
        self.nodes: dict[str, Enrolled] = {}
        self._lineages: defaultdict[str, Lineage] = defaultdict(Lineage)  # by node
        self._order = 0  # order number of the last certificate issued
        self.gap = 0.0  # certificates issued until then may be missing

    def __repr__(self) -> str:
        return f"<Journal {len(self.signed)} identities on nodes, {len(self.nodes)} nodes>"

    def load(self, now: float) -> None:
        """Read the journal again. Lines that cannot be read, or a missing file, become a gap. Raise FolderError."""
        self.signed, self.nodes, self.gap, self._lines = {}, {}, 0.0, 0
        self._lineages.clear()
        self._order = 0
        data = self._folder.read(FILE)
        *lines, tail = (data or b"").split(b"\n")
        self._torn = bool(tail)  # a crash in the middle of a line: nothing was answered yet for that event
        broken = 0 if data is not None else 1
        for line in lines:
            try:
                self._note(_DECODER.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                broken += bool(line)
        if broken:
            log.warning(
                "%s: the ledger of what was issued is damaged or gone; what could be read is kept",
                self._folder.path / FILE,
            )
            if data is not None:
                self._folder.replace(DAMAGED, data)
            self._note(Gap(now))
        if broken or self._torn:
            self._compact(now)

    def begin(self) -> None:
        """Begin an empty journal, for an authority that has issued nothing."""
        self._folder.replace(FILE, b"")

    def record(self, now: float, *events: Event) -> None:
        """Keep these events: they are on the disk when this returns.

        Raise FolderError; then the caller must not send the answer that they belong to.
        """
        data = b"".join(_ENCODER.encode(event) + b"\n" for event in events)
        torn, self._torn = self._torn, True
        self._folder.append(FILE, b"\n" + data if torn else data)
        self._torn = False
        for event in events:
            self._note(event)
        if self._lines > 2 * self._size() + _SLACK:
            self._compact(now)

    def newest(self, now: float) -> list[Signed]:
        """Return the newest certificate of each node and identity, unless it has expired."""
        return [entries[-1] for entries in self.signed.values() if entries[-1].not_after > now]

    def next_order(self, now: float, asked_with: str = "") -> int:
        """Return the order number of the next certificate: above every one known here or just shown (`asked_with`)."""
        return after(max(self._order, order_of(canonical_serial(asked_with))), now)

    def is_news(self, node: str, serial: str) -> bool:
        """Return whether this certificate of the node's own was issued after all that the node has shown."""
        return Lineage().is_news(serial) if node not in self._lineages else self._lineages[node].is_news(serial)

    def may_renew(self, node: str, serial: str, issuers: Collection[str]) -> bool:
        """Return whether the node may renew its own certificate with this one, which is not valid now (lineage.py)."""
        if node in self._lineages:
            return self._lineages[node].may_renew(serial, issuers)
        # The node was enrolled after the backup that the ledger was restored from. Where lines are lost, the line about
        # what the node has shown may be lost too.
        return not self.gap and Lineage().may_renew(serial, issuers)

    def _note(self, event: Event) -> None:
        self._lines += 1
        if isinstance(event, Signed):
            entries = self.signed.setdefault((event.node, event.spiffe), [])
            entries.append(event)
            del entries[:-_KEPT]
            self._order = max(self._order, order_of(canonical_serial(event.serial)))
            if is_own(event):
                self._show(event.node, event.before)
                self._lineages[event.node].issue(event.serial)
                if not event.before:
                    self._show(event.node, event.serial)
        elif isinstance(event, Joined):
            self.nodes[event.node] = Enrolled(since=event.at)
        elif isinstance(event, Fetched):
            node = self.nodes.setdefault(event.node, Enrolled(since=event.at))
            if event.roots != node.roots:
                node.roots, node.fetched = event.roots, event.at
            self._show(event.node, event.shown)
            if event.behind:
                self._lineages[event.node].leave_behind(event.behind)
                self._order = max(self._order, event.behind)
        else:
            self.gap = max(self.gap, event.at)

    def _show(self, node: str, serial: str) -> None:
        if serial:
            self._lineages[node].show(serial)
            self._order = max(self._order, order_of(canonical_serial(serial)))

    def _size(self) -> int:
        return sum(map(len, self.signed.values())) + 2 * len(self.nodes) + 1

    def _compact(self, now: float) -> None:
        """Drop entries that decide nothing any more, but keep the newest of each kind, and rewrite the file."""
        for pair, entries in self.signed.items():
            self.signed[pair] = [*(entry for entry in entries[:-1] if self._counts(entry, now)), entries[-1]]
        ended = sorted(
            (entries[-1].not_after, pair) for pair, entries in self.signed.items() if entries[-1].not_after <= now
        )
        for _, pair in ended[: max(0, len(self.signed) - _PAIRS)]:
            del self.signed[pair]
        events = list(self._events())
        self._folder.replace(FILE, b"".join(_ENCODER.encode(event) + b"\n" for event in events))
        self._lines, self._torn = len(events), False

    def _counts(self, entry: Signed, now: float) -> bool:
        return entry.serial in self._lineages[entry.node] if is_own(entry) else entry.not_after > now

    def _events(self) -> Iterable[Event]:
        if self.gap:
            yield Gap(self.gap)
        for name, node in self.nodes.items():
            yield Joined(name, node.since)
            lineage = self._lineages.get(name, Lineage())
            if node.fetched or lineage.shown:
                behind = lineage.behind if lineage.behind > order_of(lineage.shown) else 0
                yield Fetched(name, node.roots, node.fetched, lineage.shown, behind)
        for entries in self.signed.values():
            yield from entries


def is_own(entry: Signed) -> bool:
    """Return whether it is the certificate of the node itself."""
    return bool(entry.node) and entry.spiffe.endswith(f"/node/{entry.node}")
