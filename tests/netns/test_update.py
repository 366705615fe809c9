"""Updates on a real node: another release takes over under load, or the old one goes on; whatever is killed, one of them works."""

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.commands.update import family
from agent.ota.bundle import File, Manifest, write_head
from agent.ota.releases import Releases
from tests.netns.conftest import EDGEMESH, PATH
from tests.netns.test_node_lifecycle import Probe

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.generate()
RUN = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(EDGEMESH)}"
GOOD = f'#!/bin/sh\n# %s\n{RUN} "$@"\n'
# What a release may do instead of taking over.
BAD = {
    "it is no program": "\x7fELF nonsense %s",
    "it ends at once": "#!/bin/sh\n# %s\nexit 3\n",
    "it is killed": "#!/bin/sh\n# %s\nkill -SEGV $$\n",
    "it never is well": "#!/bin/sh\n# %s\nexec sleep 60\n",
    "it knows no manifests": f'#!/bin/sh\n# %s\ncd /; {RUN} run --config /proc/self/fdinfo --state-dir "$PWD/nothing" --socket "$9"\n',
}
# Two hundred requests a second: half of them on connections that are kept, half on their own.
LOAD = """
    import http.client, sys, threading, time
    host, over, failed, stale, done = sys.argv[1], threading.Event(), [], [], []
    def ask(connection):
        connection.request("GET", "/load")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or b"saw" not in body:
            raise ValueError(f"{answer.status} {body[:80]}")
    def load(kept):
        connection, used = None, False
        due = time.monotonic()
        while not over.is_set():
            try:
                if connection is None or not kept or connection.sock is None:
                    connection, used = http.client.HTTPConnection(host, 80, timeout=10), False
                try:
                    ask(connection)
                except (ConnectionError, http.client.HTTPException) as error:
                    if not used:
                        raise
                    stale.append(repr(error))  # it closed while it rested: whoever keeps connections asks again (RFC 9112, 9.3.1)
                    connection = http.client.HTTPConnection(host, 80, timeout=10)
                    ask(connection)
                used = True
                done.append(1)
            except Exception as error:
                failed.append(f"{time.time():.3f} kept={kept} {error!r}")
                connection = None
            due = max(due + 0.02, time.monotonic() - 0.2)
            time.sleep(max(0, due - time.monotonic()))
    threads = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads: thread.start()
    print("ready")
    while sys.stdin.readline() == "how many?\\n":
        print(len(done))
    over.set()
    for thread in threads: thread.join()
    print(len(done), len(stale), len(failed), *failed[:5], sep="|")
"""


class Load:
    def __init__(self, host, address):
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", host.name, sys.executable, "-u", "-c", textwrap.dedent(LOAD), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": PATH},
        )
        assert self.process.stdout.readline() == "ready\n"

    def more(self):
        """Wait until a request more has been served."""
        before, until = self.served(), time.monotonic() + 60
        while self.served() == before:
            assert time.monotonic() < until, "nothing is served any more"
            time.sleep(0.01)

    def served(self):
        self.process.stdin.write("how many?\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        out, _ = self.process.communicate("\n", timeout=30)
        done, stale, failed, *which = out.strip().split("|")
        return int(done), int(stale), int(failed), which

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Box:
    """A lab's node with releases of its own."""

    def __init__(self, lab):
        self.lab, self.state, self.epoch = lab, lab.folder / "state", 0
        self.releases = Releases(self.state)
        (lab.folder / "key.pub").write_bytes(
            KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        assert self.update("trust", lab.folder / "key.pub").returncode == 0

    def bundle(self, version, program, **fields):
        self.epoch += 1
        data = (program % version).encode()
        file = File(family(), len(data), hashlib.sha256(data).hexdigest())
        manifest = Manifest(version, **{"epoch": self.epoch, "files": (file,)} | fields)
        path = self.lab.folder / f"{version}.bundle"
        path.write_bytes(write_head(manifest, [KEY]) + data)
        return path

    def update(self, *words):
        command = [*EDGEMESH, "update", *map(str, words), "--state", str(self.state), "--socket", self.lab.socket]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=ROOT)

    def pid(self):
        """Of the daemon that serves."""
        return int(Path(f"{self.lab.socket}.lock").read_text())


@pytest.fixture(scope="module")
def box(lab):
    lab.write(
        "update",
        {
            "apiVersion": "edgemesh.io/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": lab.node},
            "spec": {"update": {"deadline": 8, "drainTimeout": 20}},
        },
    )
    lab.down()
    lab.up()
    first = lab.daemon
    box = Box(lab)
    yield box
    for path in Path("/proc").glob("[0-9]*/cmdline"):  # those that took over are nobody's children any more
        with contextlib.suppress(OSError):
            if (
                str(lab.folder / "config") in path.read_text().split("\0")
                and (pid := int(path.parent.name)) != first.pid
            ):
                os.kill(pid, signal.SIGKILL)


def test_a_release_takes_over_and_the_old_one_ends(lab, box):
    done = box.update(box.bundle("1.0", GOOD))
    assert done.returncode == 0, done.stderr + lab.log()[-3000:]
    assert done.stdout == "edgemesh 1.0 runs\n"
    lab.wait(lambda: lab.daemon.poll() is not None, "the old daemon ends")
    assert lab.daemon.returncode == 0
    assert box.pid() != lab.daemon.pid
    assert lab.status()["enforcing"]
    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    assert buyer.curl(f"http://{store.v4}/").status == 200
    assert thief.curl(f"http://{store.v4}/").refused


@pytest.mark.parametrize("why", BAD)
def test_one_that_does_not_prove_well_changes_nothing(lab, box, why):
    pid, installed = box.pid(), box.releases.current()
    done = box.update(box.bundle(f"bad-{list(BAD).index(why)}", BAD[why]))
    assert done.returncode == 1
    assert "did not take over" in done.stderr
    assert "goes on as before" in done.stderr
    assert (box.pid(), box.releases.current()) == (pid, installed)
    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    lab.wait(lambda: lab.status()["enforcing"], "it enforces")
    assert buyer.curl(f"http://{store.v4}/").status == 200
    assert thief.curl(f"http://{store.v4}/").refused
    for host in (buyer, thief, store):
        assert "edgemesh" in host.run("nft", "list", "tables").stdout


def test_updates_under_load_fail_no_request_and_open_no_gap(lab, box):
    """Twenty that take over, and after every fourth one that does not."""
    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    bad = list(BAD.values())
    with Probe(thief, f"http://{store.v4}/") as probe, Load(buyer, store.v4) as load:
        for number in range(20):
            load.more()
            done = box.update(box.bundle(f"2.{number}", GOOD))
            assert done.returncode == 0, done.stderr
            load.more()
            if number % 4 == 3:
                assert box.update(box.bundle(f"2.{number}-bad", bad[number // 4])).returncode == 1
        served, stale, failed, which = load.end()
    assert (failed, probe.admitted) == (0, []), (which, probe.admitted, lab.log()[-6000:])
    assert served >= 40
    assert stale <= 2 * 20  # closed while they rested, and asked again: two connections are kept, twenty times
    assert probe.tries > 20
    assert box.update("status").stdout.splitlines()[0].startswith("installed  2.19-")
    history = box.update("history").stdout.splitlines()
    assert sum("took over" in line for line in history) >= 20
    assert sum("failed" in line for line in history) >= 5


def test_rollback_takes_up_the_release_before(lab, box):
    before = box.releases.previous()
    done = box.update("rollback")
    assert done.returncode == 0, done.stderr
    assert box.releases.current() == before
    assert lab.status()["enforcing"]


def test_a_tunnel_that_is_open_outlives_the_update(lab, box):
    buyer, store = lab.host("buyer"), lab.host("store")
    code = """
        import socket, sys
        s = socket.create_connection((sys.argv[1], 7)); s.settimeout(10)
        s.sendall(b"one"); assert s.recv(100) == b"echo one"; print("ready")
        sys.stdin.readline()
        s.sendall(b"two"); print(s.recv(100).decode())
    """
    command = ["ip", "netns", "exec", buyer.name, sys.executable, "-u", "-c", textwrap.dedent(code), store.v4]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": PATH}
    ) as talk:
        assert talk.stdout.readline() == "ready\n"
        assert box.update(box.bundle("3.0", GOOD)).returncode == 0
        assert talk.communicate("\n", timeout=10)[0] == "echo two\n"


def test_the_old_daemon_killed_while_it_hands_over_leaves_nobody_behind(lab, box):
    """kill -9 in the middle: its successor ends too, and the next start is the installed release."""
    pid = box.pid()
    bundle = box.bundle("4.0", BAD["it never is well"])
    with subprocess.Popen(
        [*EDGEMESH, "update", bundle, "--state", box.state, "--socket", lab.socket],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as update:
        lab.wait(lambda: "4.0-" in lab.log(), "it hands over")
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        assert "4.0" not in box.releases.current()
        _, said = update.communicate(timeout=30)
        assert update.returncode == 1, said
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/", timeout=2).status == 0, "closed, not open"
    lab.up()
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200
