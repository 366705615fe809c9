"""JSON that is nested deeper than any object of Kubernetes. Pure.

Whoever may write one object of a kind with a field of any shape may nest it as deep as the API server stores: thousands
of levels, at which decoders give up. One such object must not keep the others of its kind from being read.
"""

from __future__ import annotations

import re

DEEPEST = 64  # levels that are kept; what edgemesh reads has at most 12
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def shallow(data: bytes, deepest: int = DEEPEST) -> bytes:
    """Return JSON in which null stands for everything that is nested deeper than `deepest` levels.

    Takes a second for some ten megabytes.
    """
    pieces: list[bytes] = []
    kept = depth = 0  # what was taken over of `data`, and the level
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth == deepest + 1:
                pieces.append(data[kept : token.start()])
        elif first in b"]}":
            depth -= 1
            if depth == deepest:
                pieces.append(b"null")
                kept = token.end()
    # brackets that do not match are left for the decoder, which refuses them
    return b"".join((*pieces, data[kept:])) if depth == 0 else data
