"""Did you mean: which known word is most similar to an unknown word that a person wrote."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 100  # characters; no known word is nearly as long, and comparing takes time


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most similar to this one, ignoring case; "" if none is similar."""
    if len(word) > _LONGEST:
        return ""
    import difflib  # a daemon whose manifests have no typing errors does without

    folded = {one.lower(): one for one in sorted(known, reverse=True)}
    found = difflib.get_close_matches(word.lower(), folded, 1, cutoff)
    return folded[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a hint for an unknown word: "did you mean X?", or `otherwise` if no known word is similar."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else otherwise
