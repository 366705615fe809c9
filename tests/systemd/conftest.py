"""A box: systemd as PID 1 of namespaces of its own, with its own /etc, /var, /run and network. What it does stays in there.

It needs root, systemd and the built file, whose path is in EDGEMESH_FILE (`make smoke` makes it and says so).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

FILE = os.environ.get("EDGEMESH_FILE", "")
INIT = Path("/lib/systemd/systemd")
# What the machine has can be read there and not written, whatever a unit of it may try (systemd-tmpfiles empties /tmp at a start);
# what is to be written begins empty, and /etc has a layer of our own over the machine's. One cgroup tree, as on a new Debian.
START = r"""
    set -e
    mount --make-rprivate /
    while read -r _ at _; do mount -o remount,bind,ro "$(printf '%b' "$at")" 2>/dev/null || true; done </proc/self/mounts
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
    for folder in /var /run /usr/local /root /home /srv; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
    for folder in /tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$folder"; done
    mkdir -p /run/lock /run/systemd/system /var/lib /var/cache /var/log /usr/local/bin
    mkdir -m 1777 /var/tmp
    cat >/usr/local/bin/edgemesh-file
    chmod 755 /usr/local/bin/edgemesh-file
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t proc proc /proc
    ip link set lo up
    rm -rf /etc/systemd/system
    mkdir /etc/systemd/system
    # Nothing of the machine's runs there: no unit of it is wanted by anything.
    mount -t tmpfs tmpfs /lib/systemd/system/sysinit.target.wants
    mount -t tmpfs tmpfs /lib/systemd/system/multi-user.target.wants
    printf '[Unit]\nDescription=The box is up\n' >/etc/systemd/system/multi-user.target
    mount --make-rshared / # as systemd has it where it is no container's
    exec env -i container=edgemesh PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$1" --system --unit=multi-user.target --show-status=no --log-target=null
"""


def pytest_collection_modifyitems(items):
    missing = (
        "root" if os.geteuid() else "systemd" if not INIT.exists() else "" if FILE else "the built file: make smoke"
    )
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs {missing}"))


def cgroup2():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise AssertionError("no cgroup2 is mounted")


class Box:
    file = "/usr/local/bin/edgemesh-file"

    def __init__(self, name="box"):
        """`name` tells the boxes of one test apart."""
        self.cgroup = cgroup2() / f"edgemesh-{name}-{os.getpid()}"  # the root of all that the box can see
        self.cgroup.mkdir()
        flags = ["--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        enter = 'echo $$ >"$0/cgroup.procs" && exec unshare "$@"'
        command = ["bash", "-c", enter, str(self.cgroup), *flags, "bash", "-c", START, "box", str(INIT)]
        with open(FILE, "rb") as file:
            self.process = subprocess.Popen(command, stdin=file)
        self.init = 0
        self.wait(self._find, "systemd is PID 1")
        self.wait(
            lambda: self.run("systemctl", "is-active", "multi-user.target", check=False).stdout == "active\n",
            "the box is up",
        )

    def _find(self):
        """PID 1 of the box, once it is systemd."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            self.init = int(children[0])
        return self.init

    def run(self, *words, check=True, timeout=100, **options):
        inside = ["nsenter", "-t", str(self.init), "-m", "-p", "-n", "-u", "-i", "-C"]
        done = subprocess.run(
            [*inside, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.stdout}{done.stderr}\n{self.log()}")
        return done

    def sh(self, script, **options):
        return self.run("bash", "-ec", script, **options).stdout

    def write(self, path, text):
        """Text or bytes."""
        data = text if isinstance(text, bytes) else text.encode()
        self.run(
            "bash", "-c", 'mkdir -p "$(dirname "$0")" && base64 -d >"$0"', path, input=base64.b64encode(data).decode()
        )

    def wait(self, condition, what, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(
            f"gave up waiting: {what}\n{self.log() if self.init and self.process.poll() is None else ''}"
        )

    def edgemesh(self, *words, **options):
        return self.run("/usr/local/bin/edgemesh", *words, **options)

    def status(self):
        return json.loads(self.edgemesh("status", "-o", "json").stdout)

    def show(self, name, unit="edgemesh.service"):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def main_pid(self):
        """Of the daemon. Never 0, which is a process group: the tests' own, to kill(1)."""
        self.wait(lambda: self.show("MainPID") != "0", "it runs", 20)
        return self.show("MainPID")

    def log(self):
        with contextlib.suppress(Exception):
            return self.run(
                "bash", "-c", "tail -c 3000 /run/edgemesh.log; systemctl --no-pager status edgemesh", check=False
            ).stdout
        return ""

    def close(self):
        self.process.kill()
        self.process.wait()
        self.wait(self._left, "its cgroups are gone", 10)

    def _left(self):
        """Deepest first; those of processes that are just ending need a moment."""
        with contextlib.suppress(OSError):
            for folder in sorted(filter(Path.is_dir, self.cgroup.rglob("*")), key=lambda path: -len(path.parts)):
                folder.rmdir()
            self.cgroup.rmdir()
        return not self.cgroup.exists()


@pytest.fixture(scope="module")
def box():
    found = Box()
    try:
        # No journal runs here; and a watchdog that bites while a test can wait for it.
        log = "[Service]\nStandardOutput=append:/run/edgemesh.log\nStandardError=append:/run/edgemesh.log\nWatchdogSec=3\n"
        found.write("/etc/systemd/system/edgemesh.service.d/90-test.conf", log)
        yield found
    finally:
        found.close()
