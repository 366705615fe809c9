"""A step of the root's rotation that a person asks for in a cluster: annotations of the ConfigMap with the roots. Pure.

The key is in the cluster alone, and which node has heard of a root is known to the server that holds the lease. So a
person writes what is asked for beside the roots, and that server takes the step, or says why not. Who may write this
ConfigMap could give all nodes any root at once, so nobody gains a right by it.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from msgspec import Struct

from agent.identity.authority.rotation import Report
from agent.identity.kubernetes.objects import Metadata

ASKED = "edgemesh.io/rotate"  # written by a person's command
ANSWER = "edgemesh.io/rotation"  # written by the server that holds the lease
Wanted = Literal["add", "issue", "retire", "undo"]
STEPS = get_args(Wanted)
GOOD = 600.0  # seconds for which a request is good: it must not be carried out when nobody thinks of it any more
NAMES = 20  # that an answer lists
_LONGEST = 4096  # characters of a request


class Asked(Struct, frozen=True):
    """What a person asks for. `at`: the API server's time. `id`: chance, by which the answer is known."""

    step: Wanted
    id: str
    at: float
    force: bool = False


class Answer(Struct, frozen=True):
    """Where the rotation stands, and what became of the last request."""

    report: Report
    id: str = ""  # of the request; "": there was none
    refused: str = ""  # why it was not carried out
    hint: str = ""


def asked(metadata: Metadata) -> Asked | None:
    """Return what is asked for; None for nothing, or something that makes no sense."""
    said = metadata.annotations.get(ASKED, "")
    try:
        return msgspec.json.decode(said, type=Asked) if 0 < len(said) <= _LONGEST else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def answered(metadata: Metadata) -> Answer | None:
    """Return what the server said last; None if it said nothing that can be read."""
    try:
        return msgspec.json.decode(metadata.annotations.get(ANSWER, ""), type=Answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def write(said: Asked | Answer) -> str:
    """Return what is written into the annotation."""
    return msgspec.json.encode(said).decode()
