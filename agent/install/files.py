"""The files that `edgemesh setup` writes. Every file is replaced whole or not at all, and only when it differs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec import Struct

from agent.system.files import make_directory, replace_file, replace_link

STATE = Path("/var/lib/edgemesh")
CONFIG = Path("/etc/edgemesh")
CACHE = Path("/var/cache/edgemesh")
RUNTIME = Path("/run/edgemesh")
UNITS = Path("/etc/systemd/system")
UNIT = "edgemesh.service"
PROGRAM = Path("/usr/local/bin/edgemesh")
OPTIONS = CONFIG / "edgemesh.env"
NODE = CONFIG / "node.yaml"

NODE_TEXT = """\
# This node's settings. What is not said has the value that stands in the comment. `edgemesh check /etc/edgemesh` says what is wrong.
# Every *.yaml, *.yml and *.json in this directory is read, and a change is in force within a moment.
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {name: default}
spec: {}
#  addresses: [192.168.7.2]        # where other nodes reach this one: its tunnel door, port 15008
#  metered: false                  # true: its link costs by the byte
#  onStop: closed                  # what a stopped daemon leaves: every call refused; open: no rules at all
#  accessLog: denied               # off, denied, all: lines in the journal
#  metricsAddress: 127.0.0.1:15020 # where Prometheus asks; it shows the bearer token that is in
#  metricsTokenFile: /etc/edgemesh/metrics-token
"""

OPTIONS_TEXT = """\
# What the edgemesh service is started with; systemctl restart edgemesh puts it in force.
# EDGEMESH_NODE: this node's name, as the Workloads' `node` has it. Without it: the host name.
{node}
# EDGEMESH_OPTIONS: words after `edgemesh run --config /etc/edgemesh`, such as --authority on the node that signs certificates.
{options}
"""


class Written(Struct, frozen=True):
    """The result for one file."""

    path: Path
    changed: bool


def unit_text() -> str:
    # Here, since it is for setup, and the daemon imports this file too. build/freeze.yml replaces these lines.
    import importlib.resources

    return (importlib.resources.files("agent.install") / UNIT).read_text("utf-8")


def options_text(node: str, authority: bool) -> str:
    """Return the options file. A value that setup was not given is a comment."""
    return OPTIONS_TEXT.format(
        node=f"EDGEMESH_NODE={node}" if node else "# EDGEMESH_NODE=shop-1",
        options="EDGEMESH_OPTIONS=--authority" if authority else "# EDGEMESH_OPTIONS=--authority",
    )


def put(path: Path, text: str, mode: int = 0o644) -> Written:
    """Make `path` have the content `text`. Raise OSError."""
    data = text.encode()
    with contextlib.suppress(FileNotFoundError):
        if not path.is_symlink() and path.read_bytes() == data:
            return Written(path, False)
    make_directory(path.parent, 0o755)
    replace_file(path, data, mode)
    return Written(path, True)


def put_new(path: Path, text: str) -> Written:
    """Do the same only where no file exists: what a person wrote stays. Raise OSError."""
    return Written(path, False) if path.exists() else put(path, text)


def link(path: Path, target: Path) -> Written:
    """Make `path` a link to `target`. Raise OSError; a file of another program at `path` is not touched."""
    if path.is_symlink():
        if path.readlink() == target:
            return Written(path, False)
    elif path.exists():
        raise FileExistsError(17, "there is another file, which is not ours", str(path))
    make_directory(path.parent, 0o755)
    replace_link(path, target)
    return Written(path, True)
