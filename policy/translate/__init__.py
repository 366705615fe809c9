"""TRANSLATORS: one file for each dialect or question, one shape, run in this order. A translator reads objects that passed its checks."""

from __future__ import annotations

from collections.abc import Callable

from policy.draft import Draft, Input
from policy.translate import access, core, mtls, osm, reach, revocation, smi

Translator = Callable[[Input, Draft], None]

TRANSLATORS: tuple[Translator, ...] = (
    osm.translate,
    mtls.translate,
    core.translate,
    reach.translate,
    smi.translate,
    access.translate,
    revocation.translate,
)
