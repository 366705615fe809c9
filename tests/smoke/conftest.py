"""The smoke ring: the built file, in a root that holds nothing but it, manifests, /proc, /dev, /sys and one directory in memory.

EDGEMESH_FILE is the file, for any CPU family; for another family than this machine's EDGEMESH_EMULATOR is the static qemu-user of that
family. `make smoke` builds one and sets both. Which form the file has (a bundle, or all in one ELF) is no matter here.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from agent.demo.documents import MEMBERS, fixed
from agent.demo.plan import HOSTS
from agent.demo.steps import STEPS

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
FAMILIES = {62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}  # e_machine
TMP = "mount -t tmpfs -o mode=1777 tmpfs tmp"
PATIENCE = 60  # seconds; an emulated start takes two

BAD = """apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: good, namespace: lab}
spec: {addresses: [10.0.0.1]}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: bad, namespace: lab}
spec:
  adresses: [10.0.0.2]
"""


def pytest_collection_modifyitems(items):
    if os.environ.get("EDGEMESH_FILE"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no built file: make smoke"))


@pytest.fixture(scope="session")
def file():
    return Path(os.environ["EDGEMESH_FILE"]).resolve()


@pytest.fixture(scope="session")
def emulator(file):
    """The qemu-user that the file needs here; None: this machine's own family."""
    family = FAMILIES[struct.unpack_from("<H", file.read_bytes()[:20], 18)[0]]
    if family == os.uname().machine:
        return None
    assert os.environ.get("EDGEMESH_EMULATOR"), (
        f"{file} is for {family}: set EDGEMESH_EMULATOR to a static qemu-{family}"
    )
    return Path(os.environ["EDGEMESH_EMULATOR"])


def member(name):
    namespace, account, labels = MEMBERS[name]
    address = next(host.address4 for host in HOSTS if host.name == name)
    spec = {"serviceAccount": account, "labels": labels, "addresses": [address]}
    return {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def lay(root):
    """The box's own files."""
    for number, step in enumerate(STEPS, 1):
        folder = root / "srv" / f"step-{number}"
        folder.mkdir(parents=True)
        for name, source in step.files.items():
            (folder / name).write_text(fixed(source))
        for name in (host.name for host in HOSTS if host.name in MEMBERS):
            if name != "bookstore-v2" or step.has_v2:
                (folder / f"workload-{name}.yaml").write_text(json.dumps(member(name)))
    (root / "srv/bad").mkdir()
    (root / "srv/bad/workloads.yaml").write_text(BAD)
    (root / "srv/none").mkdir()


class Box:
    """The root, and the namespaces in which all that is started here lives. All of it ends with `close`."""

    def __init__(self, root, file, emulator, mounts=TMP):
        self.root, self.emulator = root, emulator
        for name in ("proc", "dev", "sys", "tmp", "run", "opt"):
            (root / name).mkdir(parents=True)
        shutil.copy(file, root / "opt" / "edgemesh")
        lay(root)
        # A user namespace has an own binfmt_misc (Linux 6.7): the machine's stays as it is.
        own = ["--user", "--map-root-user"] if emulator else []
        script = "\n".join(
            [
                "set -eu",
                'mount --bind "$0" "$0"; cd "$0"',
                "mount -t proc proc proc",
                "mount -t tmpfs -o mode=755 tmpfs dev",
                "for one in null zero full random urandom; do : >dev/$one; mount --bind /dev/$one dev/$one; done",
                "mount -t sysfs sysfs sys",
                mounts,
                "mount -o remount,bind,ro .",
                "ip link set lo up",
                f"mount -t binfmt_misc none /proc/sys/fs/binfmt_misc; printf '%s' '{rule(emulator)}' >/proc/sys/fs/binfmt_misc/register"
                if emulator
                else ":",
                "echo ready; exec cat",
            ]
        )
        command = [
            "unshare",
            *own,
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            script,
            str(root),
        ]
        self.holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PATH": PATH}
        )
        assert self.holder.stdout.readline() == "ready\n", "the box cannot be made here"
        self.enter = [
            shutil.which("nsenter", path=PATH),
            f"--target={child(self.holder.pid)}",
            "--mount",
            "--net",
            "--pid",
        ]
        self.enter += ["--user", "--preserve-credentials"] if emulator else []
        self.enter += [shutil.which("chroot", path=PATH), str(root)]

    def close(self):
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait(PATIENCE)

    def command(self, *words, closed=""):
        """`closed`: redirections of a shell, as `<&-`."""
        return [
            *(["/bin/sh", "-c", f'exec "$@" {closed}', "sh"] if closed else []),
            *self.enter,
            "/opt/edgemesh",
            *words,
        ]

    def run(self, *words, variables=None, given="", closed="", stdout=subprocess.PIPE):
        """One command of an operator: what it printed, and its code."""
        how = {"input": given, "stdout": stdout, "stderr": subprocess.PIPE, "text": True, "timeout": PATIENCE}
        return subprocess.run(self.command(*words, closed=closed), check=False, env=variables or {}, **how)

    def start(self, *words, variables=None, closed="", **pipes):
        return subprocess.Popen(self.command(*words, closed=closed), env=variables or {}, text=True, **pipes)


def rule(emulator):
    number = next(number for number, name in FAMILIES.items() if emulator.name.endswith(name))
    magic = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0" + struct.pack("<H", number)
    mask = b"\xff\xff\xff\xff\xff\xff\xff\0\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    words = ("".join(f"\\x{byte:02x}" for byte in word) for word in (magic, mask))
    return f":edgemesh:M::{':'.join(words)}:{emulator}:F"


def child(pid):
    """The only child: what `unshare` or `nsenter` started in the new PID namespace."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Daemon:
    """`edgemesh run` in a box."""

    def __init__(self, box, folder, *words, name="node", closed=""):
        self.box, self.socket, self.name = box, f"/tmp/{name}.sock", name
        self.log_file = folder / f"{name}.log"
        given = ["--node", name, "--socket", self.socket, "--state-dir", f"/tmp/{name}", "--metrics-address", ""]
        with self.log_file.open("w") as log:
            self.process = box.start(
                "run", *given, *words, closed=closed, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self):
        return self.log_file.read_text()

    def ready(self, workloads=0):
        """Its status, once it knows so many workloads and enforces policy; emulated it cannot: qemu-user has no netfilter sockets.

        It is asked until then, and each question is a start of its own, so that none comes at once after the other.
        """
        until = time.monotonic() + PATIENCE
        done = None
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log()
            done = self.box.run("status", "--socket", self.socket, "-o", "json")
            status = json.loads(done.stdout) if done.returncode != 3 else None
            if status and len(status["workloads"]) >= workloads and (self.box.emulator or status["enforcing"]):
                return status
        raise AssertionError(f"it is not ready: {done and done.stdout + done.stderr} {self.log()}")

    def signal(self, number):
        os.kill(child(self.process.pid), number)
        return self.process.wait(PATIENCE)

    def close(self):
        if self.process.poll() is None:
            os.kill(child(self.process.pid), 9)
        self.process.wait(PATIENCE)


@pytest.fixture(scope="session")
def box(tmp_path_factory, file, emulator):
    made = Box(tmp_path_factory.mktemp("smoke") / "root", file, emulator)
    yield made
    made.close()


@pytest.fixture
def daemon(box, tmp_path):
    """daemon(*words, name=...): a daemon that ends with the test."""
    started = []

    def start(*words, **how):
        started.append(Daemon(box, tmp_path, *words, **how))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def native(emulator):
    if emulator:
        pytest.skip("on this machine's own family only")


def version():
    return re.search(r'__version__ = "(.*)"', (Path(__file__).parents[2] / "agent/__init__.py").read_text())[1]
