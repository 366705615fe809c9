"""TRANSLATORS: one file for each dialect, one shape, run in this order. A translator reads objects that passed its checks."""

from __future__ import annotations

from collections.abc import Callable

from policy.draft import Draft, Input
from policy.translate import core, osm, smi

Translator = Callable[[Input, Draft], None]

TRANSLATORS: tuple[Translator, ...] = (osm.translate, core.translate, smi.translate)
