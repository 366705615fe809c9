"""setup and remove: this box with edgemesh as a systemd service, and without it again."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import agent
from agent import program
from agent.admin import client
from agent.box import files, units
from agent.box.files import CACHE, CONFIG, NODE, OPTIONS, PROGRAM, RUNTIME, STATE, UNIT, UNITS, Written
from agent.box.systemctl import SystemdError, is_active, is_there, systemctl
from agent.commands import NO, OK, terminal
from agent.config import SOCKET
from agent.ota.bundle import BundleError, File, Manifest
from agent.ota.releases import ReleaseError, Releases

_UPDATE = 600.0  # seconds for the daemon that runs to hand over; its own deadline comes first


class _Refused(Exception):  # noqa: N818
    """It goes no further; the message says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def setup(arguments: Namespace) -> int:
    """Idempotent: what is as it should be is left alone. 1 when something could not be done."""
    try:
        _fit(arguments.start)
        return _setup(arguments)
    except _Refused as refused:
        terminal.complain(str(refused), refused.hint)
    except (SystemdError, ReleaseError, BundleError) as error:
        terminal.complain(str(error))
    except OSError as error:
        terminal.complain(f"{error.filename}: {error.strerror}", "run this again when it is mended: what is done already stays")
    return NO


def _fit(start: bool) -> None:
    if os.geteuid() != 0:
        raise _Refused("this writes to /etc and /var/lib", f"run it as root: sudo {' '.join(sys.argv)}")
    if program.file is None:
        raise _Refused(
            "this edgemesh runs from its sources or a Python environment, and setup installs the one file",
            "make dist makes it; or run the daemon yourself: edgemesh run --config DIR",
        )
    if start and not is_there():
        raise _Refused(
            "systemd does not run this box",
            "run the daemon as your init system has it: edgemesh run --config DIR; or --no-start, to lay the files only",
        )


def _setup(arguments: Namespace) -> int:
    from agent.commands.update import family

    assert program.file is not None
    releases = Releases(STATE)
    _made(STATE, 0o711)  # anybody may run what is in it; what is secret there has modes of its own
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
    except OSError as error:  # a read-only /usr, or somebody's own
        terminal.complain(f"{PROGRAM}: {error.strerror}", f"edgemesh is {releases.program}; put it on your PATH as you like")
    _made(CONFIG, 0o755)
    _tell(files.put_new(NODE, files.NODE_TEXT))
    restart = _tell(_options(arguments))
    if arguments.authority:
        _authority(arguments)
    if arguments.trust:
        _trust(arguments.trust)
    changed = [_tell(files.put(UNITS / UNIT, files.unit_text()))]
    wanted = sorted(_units(arguments.node))
    changed += [_tell(written) for written in units.lay(wanted)]
    if not is_there():
        print("laid; systemd does not run here, so nothing was started")
        return OK
    if any(changed):
        systemctl("daemon-reload")
    if not arguments.start:
        print(f"laid; start it with: systemctl enable --now {UNIT}")
        return OK
    _start(releases, name, before, changed[0] or restart)
    for unit in wanted:
        if changed[1:] and is_active(unit):
            print(f"{unit} runs since before it could wait for its capture: systemctl restart {unit} when it suits")
    return OK


def _start(releases: Releases, name: str, before: str, changed: bool) -> None:
    """Have this very release run."""
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
        raise _Refused(f"the edgemesh that runs did not hand over: {error}", getattr(error, "hint", "")) from error
    releases.record("setup", agent.__version__, "took over")
    print(f"edgemesh {agent.__version__} took over")


def _options(arguments: Namespace) -> Written:
    """Words of this command line win; what stands there already stays."""
    if not OPTIONS.exists():
        return files.put(OPTIONS, files.options_text(arguments.node or "", arguments.authority))
    lines = OPTIONS.read_text("utf-8").splitlines()
    if arguments.node:
        _set(lines, "EDGEMESH_NODE", arguments.node)
    if arguments.authority and not any(line.startswith("EDGEMESH_OPTIONS=") and "--authority" in line for line in lines):
        had = next((line.partition("=")[2].strip("\"'") for line in lines if line.startswith("EDGEMESH_OPTIONS=")), "")
        _set(lines, "EDGEMESH_OPTIONS", f'"{had} --authority"' if had else "--authority")
    return files.put(OPTIONS, "".join(f"{line}\n" for line in lines))


def _set(lines: list[str], name: str, value: str) -> None:
    lines[:] = [*(line for line in lines if not line.startswith(f"{name}=")), f"{name}={value}"]


def _node(given: str) -> str:
    """This box's name, as the service will have it."""
    if given:
        return given
    for line in OPTIONS.read_text("utf-8").splitlines() if OPTIONS.exists() else ():
        if line.startswith("EDGEMESH_NODE="):
            return line.partition("=")[2].strip("\"'")
    return socket.gethostname()


def _units(given: str) -> Iterator[str]:
    """The systemd units that are workloads of this node."""
    from agent.store import look

    published = look(CONFIG, _node(given))
    node = published.config.node
    for workload in published.snapshot.workloads:
        if workload.unit and workload.enrolled and workload.node in ("", node):
            yield workload.unit
    for problem in published.problems:
        if problem.severity == "error":
            terminal.complain(str(problem))


def _authority(arguments: Namespace) -> None:
    """The first authority of a site; one that is there already stays."""
    from agent.commands import ca
    from agent.identity.folder import Folder
    from agent.identity.holdings import FOLDER

    if Folder(STATE / FOLDER).exists():
        print("there is an authority here already")
    elif ca.ca(Namespace(verb="init", state=str(STATE), trust_domain=arguments.trust_domain)) != OK:
        raise _Refused("no authority was made, and nothing was started")


def _trust(words: list[str]) -> None:
    from agent.commands import update

    if update.update(Namespace(words=["trust", *words], state=str(STATE), socket="")) != OK:
        raise _Refused("no key was taken, and nothing was started")


# remove


def remove(arguments: Namespace) -> int:
    """The reverse of setup. 1 when something of ours is still here."""
    from agent.identity.folder import Folder, FolderError
    from agent.identity.holdings import FOLDER
    from agent.kernel import removal

    try:
        if os.geteuid() != 0:
            raise _Refused("this removes what only root may", f"run it as root: sudo {' '.join(sys.argv)}")
        if Folder(STATE / FOLDER).exists() and not arguments.yes:
            raise _Refused(
                "this node holds the site's authority: with it goes the key that every node's certificates come from",
                "edgemesh remove --yes removes it all the same",
            )
        if is_there() and (UNITS / UNIT).exists():
            systemctl("disable", "--now", "--quiet", UNIT)
        code = removal.cleanup()
        if code != OK:
            raise _Refused("the rules are not all gone, so nothing was removed yet")
        for path in (*units.laid(), UNITS / UNIT):
            _gone(path)
        if is_there():
            systemctl("daemon-reload")
        if PROGRAM.is_symlink() and PROGRAM.readlink().is_relative_to(STATE):
            _gone(PROGRAM)
        _remove_config(arguments.purge)
        for path in (STATE, CACHE, RUNTIME):
            _gone(path)
        print("edgemesh is gone from this box")
    except (_Refused, FolderError) as refused:
        terminal.complain(str(refused), refused.hint)
        return NO
    except SystemdError as error:
        terminal.complain(str(error))
        return NO
    except OSError as error:
        terminal.complain(f"{error.filename}: {error.strerror}")
        return NO
    return OK


def _remove_config(purge: bool) -> None:
    """What setup wrote and nobody changed; manifests are their owner's, unless he says otherwise."""
    if purge:
        _gone(CONFIG)
        return
    _gone(OPTIONS)
    if NODE.exists() and NODE.read_text("utf-8", "replace") == files.NODE_TEXT:
        _gone(NODE)
    if CONFIG.is_dir():
        left = sorted(path.name for path in CONFIG.iterdir())
        if left:
            print(f"{CONFIG} stays: {', '.join(left)} {'are' if len(left) > 1 else 'is'} yours (--purge removes it too)")
        else:
            _gone(CONFIG)


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.name == units.NAME:
        units.take(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
    else:
        return
    print(f"removed {path}")


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
