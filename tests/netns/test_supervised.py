"""Under a service manager that keeps descriptors: killed, hung or updated, it loses no listening socket and no rule, and lets nobody in.

And the power cut: whoever is killed at whatever step of an update, one version works afterwards, and the next update goes on from there.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.admin.client import get
from tests.manager import Manager, lives
from tests.netns.conftest import PATH
from tests.netns.halting import STEPS
from tests.netns.test_node_lifecycle import Probe, rules
from tests.netns.test_update import ROOT, Box

# Each asks on a connection of its own, all the while. What a killed daemon had accepted breaks; nobody is to be refused.
LOAD = """
    import http.client, sys, threading
    over, found = threading.Event(), {"served": 0, "broken": 0, "refused": 0}
    def load():
        while not over.is_set():
            connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=60)
            try:
                connection.request("GET", "/load")
                what = "served" if connection.getresponse().status == 200 else "refused"
            except ConnectionRefusedError:
                what = "refused"
            except (OSError, http.client.HTTPException):
                what = "broken"
            connection.close()
            found[what] += 1
            over.wait(0.01)
    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads: thread.start()
    print("ready")
    while sys.stdin.readline() == "how many?\\n":
        print(found["served"])
    over.set()
    for thread in threads: thread.join()
    print(found["served"], found["broken"], found["refused"])
"""

# Dials, says so, and waits for the answer.
CALLER = """
    import http.client, sys
    connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=60)
    connection.connect()
    connection.request("GET", "/")
    print("dialled")
    print(connection.getresponse().status)
"""


def inside(host, code, *words):
    command = ["ip", "netns", "exec", host.name, sys.executable, "-u", "-c", textwrap.dedent(code), *words]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": PATH}
    )


class Service:
    """A lab's daemon, run by a manager of ours from the installed release."""

    def __init__(self, lab):
        self.lab, self.box = lab, Box(lab)
        self.halts = lab.folder / "halts"
        self.halts.mkdir()
        words = shlex.join([sys.executable, str(ROOT / "tests/netns/halting.py"), str(self.halts)])
        self.program = f'#!/bin/sh\n# %s\nPYTHONPATH={shlex.quote(str(ROOT))} exec {words} "$@"\n'
        self.version = 0
        done = self.update()
        assert "no daemon runs" in done.stdout, done.stderr

    def command(self):
        return [str(self.box.releases.program), "run", "--config", str(self.lab.config), "--access-log", "all"]

    def bundle(self):
        self.version += 1
        return self.box.bundle(f"1.{self.version}", self.program)

    def update(self):
        return self.box.update(self.bundle())

    def settled(self, manager):
        """One daemon is in charge, and it is the manager's main process."""

        def so():
            with contextlib.suppress(ConnectionError, OSError, ValueError):
                return (
                    manager.ready
                    and manager.pid == self.box.pid()
                    and lives(manager.pid)
                    and get(self.lab.socket, "/status")["enforcing"]
                )
            return False

        manager.wait(so, f"one daemon serves; {self.lab.log()[-2000:]}")

    def works(self):
        buyer, thief, store, outsider = (self.lab.host(name) for name in ("buyer", "thief", "store", "outsider"))
        assert buyer.curl(f"http://{store.v4}/", timeout=30).status == 200
        assert thief.curl(f"http://{store.v4}/", timeout=30).refused
        assert outsider.curl(f"http://{store.v4}/", timeout=30).refused
        assert self.box.releases.command(self.box.releases.current())


@pytest.fixture(scope="module")
def service(lab):
    spec = {"update": {"deadline": 30, "drainTimeout": 5}}
    lab.write(
        "update",
        {"apiVersion": "edgemesh.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": lab.node}, "spec": spec},
    )
    lab.down()
    return Service(lab)


@pytest.fixture
def manager(lab, service):
    with (lab.folder / "daemon.log").open("ab") as log:
        made = Manager(
            service.command(),
            lab.folder / f"notify-{time.monotonic_ns()}",
            watchdog=10,
            env={**os.environ, "PATH": PATH},
            cwd=lab.folder,
            stdout=log,
            stderr=log,
        )
        with made as manager:
            service.settled(manager)
            yield manager


def more(load):
    """Wait until a request more has been served."""

    def served():
        load.stdin.write("how many?\n")
        load.stdin.flush()
        return int(load.stdout.readline())

    before, until = served(), time.monotonic() + 60
    while served() == before:
        assert time.monotonic() < until, "nothing is served any more"
        time.sleep(0.01)


def test_what_the_manager_is_told(lab, service, manager):
    said = manager.mailbox.said
    assert said("READY") == ["1"]
    assert "enforces policy on" in said("STATUS")[0]
    manager.wait(lambda: len(said("WATCHDOG")) >= 2, "it says that it lives")
    kept = manager.mailbox.store
    assert sum(name.startswith("namespace ") for name in kept) == 3, kept.keys()


def test_killed_again_and_again_nobody_is_refused_and_nobody_forbidden_comes_in(lab, service, manager):
    buyer, thief, store, outsider = (lab.host(name) for name in ("buyer", "thief", "store", "outsider"))
    url = f"http://{store.v4}/"
    with Probe(thief, url) as first, Probe(outsider, url) as second, inside(buyer, LOAD, store.v4) as load:
        assert load.stdout.readline() == "ready\n"
        for number in range(10):
            more(load)
            manager.hold()
            pid = manager.pid
            os.kill(pid, signal.SIGKILL)
            manager.wait(lambda pid=pid: not lives(pid), "it is dead")
            callers = [inside(host, CALLER, store.v4) for host in (buyer, thief, outsider)]
            for caller in callers:
                assert caller.stdout.readline() == "dialled\n"
            if number == 0:  # also of who is root there: the manager holds the sockets that own the tables
                for words in (("flush", "ruleset"), ("delete", "table", "inet", "edgemesh")):
                    store.run("nft", *words, check=False)
                assert "inet edgemesh" in rules(store)
            manager.resume()
            answers = [caller.communicate(timeout=60)[0].strip() for caller in callers]
            assert answers == ["200", "403", "403"], lab.log()[-3000:]
            service.settled(manager)
        more(load)
        served, broken, refused = map(int, load.communicate("end\n", timeout=60)[0].split())
    assert refused == 0, (served, broken)
    assert served > 10
    assert not first.admitted
    assert not second.admitted
    assert manager.starts == 11
    assert all(workload["state"] == "captured" for workload in lab.status()["workloads"] if workload["place"])
    assert "flush" not in lab.log()


def test_one_that_hangs_is_noticed_and_started_anew(lab, service, manager):
    thief, store = lab.host("thief"), lab.host("store")
    with Probe(thief, f"http://{store.v4}/") as probe:
        pid, hung = manager.pid, manager.hung
        os.kill(pid, signal.SIGSTOP)
        manager.wait(lambda: manager.hung > hung and manager.pid != pid, "the watchdog")
        service.settled(manager)
    assert not lives(pid)
    assert not probe.admitted
    service.works()


def test_the_manager_follows_an_update(lab, service, manager):
    old = manager.pid
    done = service.update()
    assert done.returncode == 0, done.stderr + lab.log()[-3000:]
    service.settled(manager)
    new = manager.pid
    assert new != old
    assert manager.starts == 1, "it was not started by the manager"
    manager.wait(
        lambda: any(pid == new and "WATCHDOG" in said for pid, said in manager.mailbox.messages), "it is watched over"
    )
    manager.wait(lambda: not lives(old), "the old one ends")
    assert manager.starts == 1
    service.works()
    os.kill(new, signal.SIGKILL)
    manager.wait(lambda: manager.starts == 2, "it is started anew")
    service.settled(manager)
    service.works()
    assert Path(f"/proc/{manager.pid}/cmdline").read_text().count(str(service.halts)) == 1


def victims(step):
    return [who for who in ("daemon", "CLI", "successor") if (who != "successor" or step not in ("staged", "taken"))]


@pytest.mark.parametrize(("step", "victim"), [(step, victim) for step in STEPS for victim in victims(step)])
def test_whoever_is_killed_at_whatever_step_one_version_works(lab, service, manager, step, victim):
    releases, thief, store = service.box.releases, lab.host("thief"), lab.host("store")
    before, old = releases.current(), manager.pid
    at = service.halts / step
    at.touch()
    bundle = service.bundle()
    words = ["update", str(bundle), "--state", str(service.box.state), "--socket", lab.socket]
    command = [sys.executable, str(ROOT / "tests/netns/halting.py"), str(service.halts), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        with (
            Probe(thief, f"http://{store.v4}/") as probe,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            ) as update,
        ):
            reached = service.halts / f"{step}.reached"
            manager.wait(lambda: reached.exists() or update.poll() is not None, f"it comes to {step}")
            assert reached.exists(), update.communicate()[0] + lab.log()[-3000:]
            halted = int(reached.read_text())
            if STEPS[step] == "successor":
                successor = halted
            elif victim == "successor":
                (successor,) = map(int, Path(f"/proc/{old}/task/{old}/children").read_text().split())
            number = {"daemon": old, "CLI": update.pid, "successor": successor if victim == "successor" else 0}[victim]
            os.kill(number, signal.SIGKILL)
            manager.wait(lambda: not lives(number), "it is dead")
            reached.unlink()
            at.unlink()
            update.communicate(timeout=60)
            service.settled(manager)
            service.works()
    finally:
        at.unlink(missing_ok=True)
    assert not probe.admitted
    name = f"{bundle.stem}-"
    current = releases.current()
    assert current == before or current.startswith(name)
    if (step, victim) in (("staged", "CLI"), ("lent", "daemon"), ("lent", "successor")):
        assert current == before
    if step == "taken":
        assert current.startswith(name)
    done = service.update()
    assert done.returncode == 0, done.stderr + lab.log()[-3000:]
    service.settled(manager)
    assert releases.current().startswith(f"1.{service.version}-")
    assert {path.name for path in releases.folder.iterdir() if path.name.startswith(".")} == set()
