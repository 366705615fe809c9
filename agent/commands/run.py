"""run: the daemon, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from agent.commands import USAGE
from agent.config.settings import Environment, environment, wrong_overrides
from agent.system import gc_pause


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="DIR", help="directory of manifests (*.yaml, *.yml, *.json), watched")
    cluster = "take objects from a Kubernetes API server, with the pod's service account; with --config from both"
    parser.add_argument("--kubernetes", action="store_true", help=cluster)
    file = "the access to the API server (default: as all commands that ask a cluster); means --kubernetes"
    parser.add_argument("--kubeconfig", metavar="FILE", help=file)
    parser.add_argument(
        "--node", metavar="NAME", help="this node's name (default: EDGEMESH_NODE, NodeConfig, the host name)"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="what outlives a restart (default: NodeConfig, /var/lib/edgemesh)"
    )
    socket = "admin socket (default: EDGEMESH_SOCKET, NodeConfig, /run/edgemesh/edgemesh.sock)"
    parser.add_argument("--socket", metavar="PATH", help=socket)
    parser.add_argument(
        "--metrics-address", metavar="HOST:PORT", help="where Prometheus may ask (default: NodeConfig, nowhere)"
    )
    file = "the bearer token that it shows there (default: NodeConfig)"
    parser.add_argument("--metrics-token-file", metavar="FILE", help=file)
    health = "where a kubelet's probes may ask (default: NodeConfig, nowhere)"
    parser.add_argument("--health-address", metavar="HOST:PORT", help=health)
    authority = "sign certificates for the mesh's nodes (edgemesh ca init comes first)"
    parser.add_argument("--authority", action="store_true", help=authority)
    log = "lines on standard output (default: NodeConfig, failed)"
    parser.add_argument("--access-log", choices=("off", "denied", "failed", "all"), help=log)


def run(arguments: Namespace) -> int:
    """Return 2 when an option is invalid, 1 without access to the cluster, else what agent.daemon.start returns."""
    overrides = given(arguments, environment())
    if wrong := wrong_overrides(overrides):
        print(f"edgemesh: {wrong}", file=sys.stderr)
        return USAGE
    in_cluster = arguments.kubernetes or arguments.kubeconfig
    if not arguments.config and not in_cluster:
        print("edgemesh: there is nothing to read: give --config DIR, --kubernetes or both", file=sys.stderr)
        return USAGE
    access = None
    if in_cluster:
        from agent.kubernetes.access import AccessError, chosen

        try:
            access = chosen(arguments.kubeconfig or "", environment())
        except AccessError as error:
            print(f"edgemesh: {error.message}{f'; {error.hint}' if error.hint else ''}", file=sys.stderr)
            return 1
    with gc_pause.paused():  # modules are no garbage, and looking through them takes a tenth of the start
        from agent.daemon import start

    directory = Path(arguments.config).resolve() if arguments.config else None
    return start.run(directory, overrides, arguments.authority, access)


def given(arguments: Namespace, variables: Environment) -> dict[str, Any]:
    """Return the settings that the command line or the environment gave, by their names in NodeConfig.

    These take precedence over files.
    """
    values = {
        "node": arguments.node or variables.node,
        "state_dir": arguments.state_dir and str(Path(arguments.state_dir).resolve()),
        "admin_socket": arguments.socket or variables.socket,
        "metrics_address": arguments.metrics_address,
        "health_address": arguments.health_address,
        "metrics_token_file": arguments.metrics_token_file and str(Path(arguments.metrics_token_file).resolve()),
        "access_log": arguments.access_log,
    }
    # --metrics-address "" means no metrics; an option that was not given is None, a variable that is not set "".
    return {name: value for name, value in values.items() if value or (value == "" and name == "metrics_address")}
