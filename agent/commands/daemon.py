"""run, cleanup, demo: the verbs that act on this node."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from agent.commands import USAGE
from agent.config import Environment, environment, wrong_overrides


def run(arguments: Namespace) -> int:
    """Runs until SIGTERM or SIGINT."""
    overrides = given(arguments, environment())
    if wrong := wrong_overrides(overrides):
        print(f"edgemesh: {wrong}", file=sys.stderr)
        return USAGE
    from agent import app

    return app.run(Path(arguments.config).resolve(), overrides, arguments.authority)


def given(arguments: Namespace, variables: Environment) -> dict[str, Any]:
    """The settings that the command line or the environment gave, by their names in NodeConfig: these win over files."""
    values = {
        "node": arguments.node or variables.node,
        "state_dir": arguments.state_dir and str(Path(arguments.state_dir).resolve()),
        "admin_socket": arguments.socket or variables.socket,
        "metrics_address": arguments.metrics_address,
        "access_log": arguments.access_log,
    }
    # --metrics-address "" is an answer (no metrics); an option that was not given is None, a variable that is not set "".
    return {name: value for name, value in values.items() if value or (value == "" and name == "metrics_address")}


def cleanup(_: Namespace) -> int:
    """Remove everything that edgemesh left in the kernel."""
    from agent.kernel import removal

    return removal.cleanup()


def demo(arguments: Namespace) -> int:
    from agent.demo import walk

    return walk.main(arguments.step, arguments.hold, arguments.app, arguments.nodes)
