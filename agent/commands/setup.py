"""setup: install edgemesh as a systemd service on this machine. remove.py is the reverse."""

from __future__ import annotations

import os
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

import agent
from agent.admin import client
from agent.commands import NO, OK, options, terminal
from agent.config.schema import SOCKET
from agent.install import drop_ins, files
from agent.install.files import CONFIG, NODE, OPTIONS, PROGRAM, STATE, UNIT, UNITS, Written
from agent.install.systemctl import SystemdError, is_active, is_there, systemctl
from agent.ota.bundle import BundleError, File, Manifest
from agent.ota.releases import ReleaseError, Releases
from agent.system import program

_UPDATE = 600.0  # seconds for the running daemon to hand over; its own deadline comes first


class Refused(Exception):  # noqa: N818
    """Setup stops here; the message says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def arguments(parser: ArgumentParser) -> None:
    node = "this node's name (default: the host name)"
    parser.add_argument("--node", metavar="NAME", type=options.node_name, help=node)
    authority = "this node signs the certificates of the site: make its first authority"
    parser.add_argument("--authority", action="store_true", help=authority)
    trust_domain = "with --authority: the mesh's, as in MeshConfig (default: cluster.local)"
    parser.add_argument("--trust-domain", metavar="TD", default="", help=trust_domain)
    trust = "public keys (PEM) whose update bundles are taken"
    parser.add_argument("--trust", metavar="KEY", nargs="+", default=[], help=trust)
    parser.add_argument("--no-start", dest="start", action="store_false", help="lay the files, and start nothing")


def run(arguments: Namespace) -> int:
    """Set up. Idempotent: what is as it should be is left alone. Return 1 when something could not be done."""
    try:
        _fit(arguments.start)
        return _setup(arguments)
    except Refused as refused:
        terminal.complain(str(refused), refused.hint)
    except (SystemdError, ReleaseError, BundleError) as error:
        terminal.complain(str(error))
    except OSError as error:
        terminal.complain(
            f"{error.filename}: {error.strerror}", "run this again when it is mended: what is done already stays"
        )
    return NO


def _fit(start: bool) -> None:
    if os.geteuid() != 0:
        raise Refused("this writes to /etc and /var/lib", f"run it as root: sudo {' '.join(sys.argv)}")
    if program.file is None:
        raise Refused(
            "this edgemesh runs from its sources or a Python environment, and setup installs the one file",
            "make dist makes it; or run the daemon yourself: edgemesh run --config DIR",
        )
    if start and not is_there():
        raise Refused(
            "systemd does not run this box",
            "run the daemon as your init system has it: edgemesh run --config DIR; or --no-start, to lay the files only",
        )


def _setup(arguments: Namespace) -> int:
    from agent.commands.update import family

    assert program.file is not None
    releases = Releases(STATE)
    _made(STATE, 0o711)  # every user may run what is in it; secrets in it have modes of their own
    manifest = Manifest(agent.__version__, agent.__epoch__, (File(family(), 1, "0" * 64),))
    with releases.alone():
        name = releases.adopt(program.file, manifest)
        before = releases.current()
        _say(STATE / "releases" / name, name != before)
        if not before:
            releases.switch(name)
            releases.record("setup", agent.__version__, "installed")
    try:
        _tell(files.link(PROGRAM, releases.program))
    except OSError as error:  # a read-only /usr, or a file of another owner
        terminal.complain(
            f"{PROGRAM}: {error.strerror}", f"edgemesh is {releases.program}; put it on your PATH as you like"
        )
    _made(CONFIG, 0o755)
    _tell(files.put_new(NODE, files.NODE_TEXT))
    restart = _tell(_options(arguments))
    if arguments.authority:
        _authority(arguments)
    if arguments.trust:
        _trust(arguments.trust)
    service = _tell(files.put(UNITS / UNIT, files.unit_text()))
    wanted = sorted(set(_units(arguments.node)))
    laid = {written.path for written in drop_ins.lay(wanted) if _tell(written)}
    if not is_there():
        print("laid; systemd does not run here, so nothing was started")
        return OK
    if service or laid:
        systemctl("daemon-reload")
    if not arguments.start:
        print(f"laid; start it with: systemctl enable --now {UNIT}")
        return OK
    _start(releases, name, before, service or restart)
    _advise(wanted, laid)
    return OK


def _advise(wanted: list[str], laid: set[Path]) -> None:
    """Advise a restart of each running unit that was set up only now to wait for its capture."""
    for unit in wanted:
        if drop_ins.drop_in(unit, UNITS) in laid and is_active(unit):
            print(f"{unit} runs since before it could wait for its capture: systemctl restart {unit} when it suits")


def _start(releases: Releases, name: str, before: str, changed: bool) -> None:
    """Have this release run."""
    systemctl("enable", "--quiet", UNIT)
    if not is_active(UNIT):
        if before and before != name:
            with releases.alone():
                releases.switch(name)
                releases.record("setup", agent.__version__, "installed")
        systemctl("start", UNIT)
        print(f"edgemesh {agent.__version__} runs and enforces; edgemesh status says more")
        return
    if before == name:
        print(
            f"edgemesh {agent.__version__} runs already{'; systemctl restart edgemesh puts the new settings of the service in force' if changed else ''}"
        )
        return
    try:
        client.post(SOCKET, "/update", [("release", name)], _UPDATE)
    except (client.Answered, client.Unreachable) as error:
        raise Refused(f"the edgemesh that runs did not hand over: {error}", getattr(error, "hint", "")) from error
    releases.record("setup", agent.__version__, "took over")
    print(f"edgemesh {agent.__version__} took over")


def _options(arguments: Namespace) -> Written:
    """Write the options. Words of this command line take precedence; the rest of the file stays."""
    if not OPTIONS.exists():
        return files.put(OPTIONS, files.options_text(arguments.node or "", arguments.authority))
    lines = OPTIONS.read_text("utf-8").splitlines()
    if arguments.node:
        _set(lines, "EDGEMESH_NODE", arguments.node)
    if arguments.authority and not any(
        line.startswith("EDGEMESH_OPTIONS=") and "--authority" in line for line in lines
    ):
        had = next((line.partition("=")[2].strip("\"'") for line in lines if line.startswith("EDGEMESH_OPTIONS=")), "")
        _set(lines, "EDGEMESH_OPTIONS", f'"{had} --authority"' if had else "--authority")
    return files.put(OPTIONS, "".join(f"{line}\n" for line in lines))


def _set(lines: list[str], name: str, value: str) -> None:
    lines[:] = [*(line for line in lines if not line.startswith(f"{name}=")), f"{name}={value}"]


def _node(given: str) -> str:
    """Return this machine's name, as the service will have it."""
    if given:
        return given
    for line in OPTIONS.read_text("utf-8").splitlines() if OPTIONS.exists() else ():
        if line.startswith("EDGEMESH_NODE="):
            return line.partition("=")[2].strip("\"'")
    return socket.gethostname()


def _units(given: str) -> Iterator[str]:
    """Yield the systemd units that are workloads of this node."""
    from agent.kernel.remembered import unit_in
    from agent.store.disk import State
    from agent.store.store import look
    from policy.model import POD

    published = look([CONFIG], _node(given))
    node = published.config.node
    for workload in published.snapshot.workloads:
        if workload.unit and not workload.unit.startswith(POD) and workload.enrolled and workload.node in ("", node):
            yield workload.unit
    # A captured unit that no manifest names any more also starts captured, until a person releases it.
    left_alone = {workload.unit for workload in published.snapshot.workloads if not workload.enrolled}
    units = {unit for place in State(STATE).places() if (unit := unit_in(place)) and not unit.startswith(POD)}
    yield from units - left_alone
    for problem in published.problems:
        if problem.severity == "error":
            terminal.complain(str(problem))


def _authority(arguments: Namespace) -> None:
    """Make the first authority of a site; an existing one stays."""
    from agent.commands import ca
    from agent.identity.authority.state import FOLDER
    from agent.identity.folder import Folder

    if Folder(STATE / FOLDER).exists():
        print("there is an authority here already")
    elif ca.run(Namespace(verb="init", state=str(STATE), trust_domain=arguments.trust_domain, output="table")) != OK:
        raise Refused("no authority was made, and nothing was started")


def _trust(words: list[str]) -> None:
    from agent.commands import update

    if update.run(Namespace(words=["trust", *words], state=str(STATE), socket="", output="table")) != OK:
        raise Refused("no key was taken, and nothing was started")


def _made(folder: Path, mode: int) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=mode, parents=True)
        _say(folder, True)


def _tell(written: Written) -> bool:
    _say(written.path, written.changed)
    return written.changed


def _say(path: Path, changed: bool) -> None:
    gone = "removed" if not path.exists() and not path.is_symlink() else "wrote"
    print(f"{gone if changed else 'as it was'}  {path}")
