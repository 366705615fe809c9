"""What `edgemesh setup` writes on a box, and where. Every file is replaced whole or not at all, and only when it differs."""

from __future__ import annotations

import contextlib
import importlib.resources
from pathlib import Path

from msgspec import Struct

from agent.ota.trust import write_whole

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
#  metricsAddress: 127.0.0.1:15020
"""

OPTIONS_TEXT = """\
# What the edgemesh service is started with; systemctl restart edgemesh puts it in force.
# EDGEMESH_NODE: this node's name, as the Workloads' `node` has it. Without it: the host name.
{node}
# EDGEMESH_OPTIONS: words after `edgemesh run --config /etc/edgemesh`, such as --authority on the node that signs certificates.
{options}
"""


class Written(Struct, frozen=True):
    """What became of one file."""

    path: Path
    changed: bool


def unit_text() -> str:
    return (importlib.resources.files("agent.box") / UNIT).read_text("utf-8")


def options_text(node: str, authority: bool) -> str:
    """Both as setup was told; comments where it was not."""
    return OPTIONS_TEXT.format(
        node=f"EDGEMESH_NODE={node}" if node else "# EDGEMESH_NODE=shop-1",
        options="EDGEMESH_OPTIONS=--authority" if authority else "# EDGEMESH_OPTIONS=--authority",
    )


def put(path: Path, text: str, mode: int = 0o644) -> Written:
    """Have `text` at `path`. Raises OSError."""
    data = text.encode()
    with contextlib.suppress(FileNotFoundError):
        if not path.is_symlink() and path.read_bytes() == data:
            return Written(path, False)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(path, data, mode)
    return Written(path, True)


def put_new(path: Path, text: str) -> Written:
    """The same, where nothing is: what a person wrote stays. Raises OSError."""
    return Written(path, False) if path.exists() else put(path, text)


def link(path: Path, target: Path) -> Written:
    """Have a link at `path`. Raises OSError; a file that somebody else put there is not touched."""
    if path.is_symlink():
        if path.readlink() == target:
            return Written(path, False)
    elif path.exists():
        raise FileExistsError(17, "there is another file, which is not ours", str(path))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(path)
    return Written(path, True)
