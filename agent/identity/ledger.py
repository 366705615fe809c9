"""What the authority has issued, to whom, and which roots each node has fetched: a journal, one line for each event.

It is appended to, so that a certificate costs the flash one line; and written anew without what has lost its meaning once it has
grown to twice of what it says. It decides no request: without it the authority signs on. It is asked before a root is retired, so
what is missing from it must be known: a `Gap` says until when.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from agent.identity.folder import Folder

log = logging.getLogger("edgemesh.authority")

FILE = "ledger.jsonl"
DAMAGED = "ledger.damaged"
SITE = "site authority"  # what stands for the SPIFFE ID in the entry of a site's intermediate

_KEPT = 8  # certificates of one (node, identity) at most: the newest, and older ones that are still valid
_PAIRS = 20_000  # of node and identity; above that those go first whose certificates have ended
_SLACK = 256  # lines more than twice of what is said


class Signed(Struct, frozen=True, tag="signed", tag_field="event"):
    """A certificate."""

    serial: str
    spiffe: str
    node: str
    not_after: float
    root: str  # fingerprint of the root that it leads to
    at: float = 0.0


class Joined(Struct, frozen=True, tag="joined", tag_field="event"):
    """A node was enrolled, or enrolled anew."""

    node: str
    at: float


class Fetched(Struct, frozen=True, tag="fetched", tag_field="event"):
    """A node was told these roots."""

    node: str
    roots: tuple[str, ...]
    at: float


class Gap(Struct, frozen=True, tag="gap", tag_field="event"):
    """What was issued until `at` may be missing."""

    at: float


Event = Signed | Joined | Fetched | Gap
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Event)


class Enrolled(Struct):
    since: float = 0.0
    roots: tuple[str, ...] = ()
    fetched: float = 0.0  # when `roots` was told for the first time


class Ledger:
    """The journal, read. Whoever calls holds the folder's lock."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lines = 0
        self._torn = False  # the last line has no end
        self.signed: dict[tuple[str, str], list[Signed]] = {}  # by (node, spiffe), oldest first
        self.nodes: dict[str, Enrolled] = {}
        self.gap = 0.0  # what was issued until then may be missing

    def __repr__(self) -> str:
        return f"<Ledger {len(self.signed)} identities on nodes, {len(self.nodes)} nodes>"

    def load(self, now: float) -> None:
        """Read it anew. Lines that make no sense, or no file at all, become a gap. Raises FolderError."""
        self.signed, self.nodes, self.gap, self._lines = {}, {}, 0.0, 0
        data = self._folder.read(FILE)
        *lines, tail = (data or b"").split(b"\n")
        self._torn = bool(tail)  # a stop in the middle of a line: what it would have said was answered to nobody
        broken = 0 if data is not None else 1
        for line in lines:
            try:
                self._note(_DECODER.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                broken += bool(line)
        if broken:
            log.warning("%s: the ledger of what was issued is damaged or gone; what could be read is kept", self._folder.path / FILE)
            if data is not None:
                self._folder.replace(DAMAGED, data)
            self._note(Gap(now))
        if broken or self._torn:
            self._compact(now)

    def begin(self) -> None:
        """An empty one, for an authority that has issued nothing."""
        self._folder.replace(FILE, b"")

    def record(self, now: float, *events: Event) -> None:
        """Keep these: on the disk when this returns. Raises FolderError, and then nothing may be answered that they speak of."""
        data = b"".join(_ENCODER.encode(event) + b"\n" for event in events)
        torn, self._torn = self._torn, True
        self._folder.append(FILE, b"\n" + data if torn else data)
        self._torn = False
        for event in events:
            self._note(event)
        if self._lines > 2 * self._size() + _SLACK:
            self._compact(now)

    def newest(self, now: float) -> list[Signed]:
        """The newest certificate of each node and identity, as far as it has not ended."""
        return [entries[-1] for entries in self.signed.values() if entries[-1].not_after > now]

    def _note(self, event: Event) -> None:
        self._lines += 1
        if isinstance(event, Signed):
            entries = self.signed.setdefault((event.node, event.spiffe), [])
            entries.append(event)
            del entries[:-_KEPT]
        elif isinstance(event, Joined):
            self.nodes[event.node] = Enrolled(since=event.at)
        elif isinstance(event, Fetched):
            node = self.nodes.setdefault(event.node, Enrolled(since=event.at))
            node.roots, node.fetched = event.roots, event.at
        else:
            self.gap = max(self.gap, event.at)

    def _size(self) -> int:
        return sum(map(len, self.signed.values())) + 2 * len(self.nodes) + 1

    def _compact(self, now: float) -> None:
        """Forget what has ended and is not the newest of its kind, and write the rest anew."""
        for pair, entries in self.signed.items():
            self.signed[pair] = [*(entry for entry in entries[:-1] if entry.not_after > now), entries[-1]]
        ended = sorted((entries[-1].not_after, pair) for pair, entries in self.signed.items() if entries[-1].not_after <= now)
        for _, pair in ended[: max(0, len(self.signed) - _PAIRS)]:
            del self.signed[pair]
        events = list(self._events())
        self._folder.replace(FILE, b"".join(_ENCODER.encode(event) + b"\n" for event in events))
        self._lines, self._torn = len(events), False

    def _events(self) -> Iterable[Event]:
        if self.gap:
            yield Gap(self.gap)
        for name, node in self.nodes.items():
            yield Joined(name, node.since)
            if node.fetched:
                yield Fetched(name, node.roots, node.fetched)
        for entries in self.signed.values():
            yield from entries
