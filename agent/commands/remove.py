"""remove: make this machine one without edgemesh again. The reverse of setup.py."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from agent.commands import NO, OK, terminal
from agent.commands.setup import Refused
from agent.identity.authority.state import FOLDER
from agent.identity.folder import Folder, FolderError
from agent.install import drop_ins, files
from agent.install.files import CACHE, CONFIG, NODE, OPTIONS, PROGRAM, RUNTIME, STATE, UNIT, UNITS
from agent.install.systemctl import SystemdError, is_there, systemctl
from agent.kernel import cleanup


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--purge", action="store_true", help="the manifests in /etc/edgemesh too")
    parser.add_argument("--yes", action="store_true", help="although the site's authority is here")


def run(arguments: Namespace) -> int:
    """Undo setup. Return 1 when something of ours is still here."""
    try:
        if os.geteuid() != 0:
            raise Refused("this removes what only root may", f"run it as root: sudo {' '.join(sys.argv)}")
        if Folder(STATE / FOLDER).exists() and not arguments.yes:
            raise Refused(
                "this node holds the site's authority: with it goes the key that every node's certificates come from",
                "edgemesh remove --yes removes it all the same",
            )
        if is_there() and (UNITS / UNIT).exists():
            systemctl("disable", "--now", "--quiet", UNIT)
        code = cleanup.cleanup()
        if code != OK:
            raise Refused("the rules are not all gone, so nothing was removed yet")
        for path in (*drop_ins.laid(), UNITS / UNIT):
            _gone(path)
        if is_there():
            systemctl("daemon-reload")
        if PROGRAM.is_symlink() and PROGRAM.readlink().is_relative_to(STATE):
            _gone(PROGRAM)
        _remove_config(arguments.purge)
        for path in (STATE, CACHE, RUNTIME):
            _gone(path)
        print("edgemesh is gone from this box")
    except (Refused, FolderError) as refused:
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
    """Remove what setup wrote, unless it was changed. Manifests belong to their owner: only --purge removes them."""
    if purge:
        _gone(CONFIG)
        return
    _gone(OPTIONS)
    if NODE.exists() and NODE.read_text("utf-8", "replace") == files.NODE_TEXT:
        _gone(NODE)
    if CONFIG.is_dir():
        left = sorted(path.name for path in CONFIG.iterdir())
        if left:
            print(
                f"{CONFIG} stays: {', '.join(left)} {'are' if len(left) > 1 else 'is'} yours (--purge removes it too)"
            )
        else:
            _gone(CONFIG)


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.name == drop_ins.NAME:
        drop_ins.take(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
    else:
        return
    print(f"removed {path}")
