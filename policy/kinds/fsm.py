"""Shapes of fsm's kinds that are known and not acted on: Plugin, PluginChain, PluginConfig. Field comments become docs/reference."""

from __future__ import annotations

from typing import Any

from policy.kinds.base import Strict


class Plugin(Strict, frozen=True):
    """A script for osm-edge's and fsm's sidecars. It is not run here: a warning names the filter that does its job."""

    priority: Any = None  # not acted on
    pipyscript: Any = None  # not acted on: no script is run


class PluginChain(Strict, frozen=True):
    """Where such scripts are to run. Nothing runs: a warning says what to write instead."""

    chains: Any = None  # not acted on
    selectors: Any = None  # not acted on


class PluginConfig(Strict, frozen=True):
    """The settings of such a script. Nothing reads them: a warning says what to write instead."""

    plugin: str = ""  # name of the Plugin
    destination_refs: Any = None  # not acted on
    config: Any = None  # not acted on
