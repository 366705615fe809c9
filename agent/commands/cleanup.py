"""cleanup: remove everything that edgemesh left in the kernel, and with --all on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from agent.commands import NO, OK
from agent.install.files import CACHE, RUNTIME, STATE
from agent.kernel import cleanup
from agent.nri.boot_files import FOLDER, BootFiles

BOOT = FOLDER  # where the runtime finds what it starts


def arguments(parser: ArgumentParser) -> None:
    everything = "what is on the disk too: keys, certificates, the last policy, what containerd starts for us"
    parser.add_argument("--all", dest="everything", action="store_true", help=everything)
    parser.add_argument(
        "--stay", action="store_true", help="then wait for SIGTERM, as a pod that is not to start again"
    )


def run(arguments: Namespace) -> int:
    """Return 1 when something is left."""
    gone = not arguments.everything or disk()  # first, since what the runtime runs for us would make the gate again
    code = cleanup.cleanup()
    if not gone:
        code = NO
    if arguments.stay and code == OK:
        print("stays until it is stopped", flush=True)
        stopping = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        signal.sigwait(stopping)
    return code


def disk() -> bool:
    """Remove our files. Return whether all are gone; a folder that is mounted for us stays, empty."""
    gone = True
    boot = BootFiles(BOOT)
    try:
        if boot.remove():
            print(f"removed {boot.program}")
    except OSError as error:
        gone = False
        print(f"edgemesh: {boot.program}: {error.strerror}", file=sys.stderr)
    for pid in running(boot.program):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for path in (inner for folder in (STATE, CACHE, RUNTIME) for inner in _within(folder)):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            gone = False
            print(f"edgemesh: {path}: {error.strerror}", file=sys.stderr)
    for folder in (STATE, CACHE, RUNTIME):
        with contextlib.suppress(OSError):  # mounted, or not there
            folder.rmdir()
    return gone


def running(program: Path) -> list[int]:
    """Return the processes that were started as `program`."""
    name = os.fsencode(program)
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if name in (folder / "cmdline").read_bytes().split(b"\0")[:3]:
                    found.append(int(folder.name))
    return found


def _within(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
