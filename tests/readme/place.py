"""Where a test of the README types: network, mount and PID namespaces that begin empty, with the machine's programs and a checkout in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.readme.script import TREE, Command

# What is written begins empty; /etc has a layer of its own over the machine's.
START = r"""
    set -e
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=755 tmpfs /var/lib/edgemesh 2>/dev/null || { mkdir -p /var/lib/edgemesh; mount -t tmpfs -o mode=755 tmpfs /var/lib/edgemesh; }
    mount -t proc proc /proc
    ip link set lo up
    exec sleep infinity
"""


class Place:
    """`user`: run commands as this number instead of root; who installs something needs the machine's network then. `tree`: where the checkout is."""

    def __init__(self, tree: Path = TREE, user: int = 0) -> None:
        self.tree = tree
        self.user = user
        # Whoever reads the README has neither CI's settings nor an activated environment.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CI", "EDGEMESH_", "PYTEST", "VIRTUAL"))
        }
        flags = [*([] if user else ["--net"]), "--mount", "--pid", "--fork", "--kill-child"]
        self._holder = subprocess.Popen(["unshare", *flags, "bash", "-c", START], env=self.environment)
        self._init = self._first()

    def _first(self) -> int:
        """PID 1 of the place, once all is mounted."""
        until = time.monotonic() + 30
        while time.monotonic() < until and self._holder.poll() is None:
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text() == "sleep\n":
                return int(children[0])
            time.sleep(0.05)
        raise AssertionError("the namespaces of a test could not be made")

    def _words(self, command: Command) -> list[str]:
        inside = ["nsenter", "-t", str(self._init), "-n", "-m", "-p", f"--wd={self.tree}"]
        drop = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"] if self.user else []
        return [*inside, *drop, "bash", "-c", command.words]

    def run(self, command: Command, seconds: float = 300) -> str:
        """Type it, and hold it to what the README says. Return all that it printed."""
        words = self._words(command)
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
            env=self.environment,
        )
        held(command, done.returncode, done.stdout)
        return done.stdout

    @contextlib.contextmanager
    def staying(self, command: Command, says: str, seconds: float = 120) -> Iterator[None]:
        """Type it in a terminal of its own, wait until it `says` so, and press Ctrl-C there at the end."""
        with subprocess.Popen(
            self._words(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,
        ) as running:
            assert running.stdout is not None
            os.set_blocking(running.stdout.fileno(), False)
            heard = b""
            until = time.monotonic() + seconds
            try:
                while says.encode() not in heard:
                    assert running.poll() is None, f"{command} ended:\n{heard.decode()}"
                    assert time.monotonic() < until, f"{command} did not say {says!r}:\n{heard.decode()}"
                    time.sleep(0.05)
                    heard += running.stdout.read() or b""
                yield
            finally:
                os.killpg(running.pid, signal.SIGINT)
                until = time.monotonic() + 30
                # nsenter dies of it at once, and the command when it is done: then nobody has its output open.
                while (more := running.stdout.read()) != b"" and time.monotonic() < until:
                    heard += more or b""
                    time.sleep(0.05)
                if more != b"":
                    running.kill()
                    raise AssertionError(f"{command} did not end at Ctrl-C:\n{heard.decode()}")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


def held(command: Command, code: int, printed: str) -> None:
    """A command of the README succeeds and prints what stands there; `explain` and curl of a refusal say no by what they print."""
    assert code == 0 or (command.prints and command.prints[0].startswith(("denied", "refused"))), (
        f"{command}: exit code {code}\n{printed}"
    )
    for line in command.prints:
        assert line in printed, f"{command} does not print {line!r}:\n{printed}"
