"""The node stays closed: flushed rules, a killed daemon, a replaced namespace, an orderly stop, cleanup."""

import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent.admin.client import get
from agent.system import cgroup
from tests.netns.conftest import EDGEMESH, GET, PATH, own, sh


def rules(host):
    return host.run("nft", "list", "tables").stdout


def test_flushing_the_ruleset_changes_nothing(lab):
    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    for host in (store, thief):
        host.run("nft", "flush", "ruleset", check=False)
        host.run("nft", "delete", "table", "inet", "edgemesh", check=False)
        host.run("nft", "flush", "chain", "inet", "edgemesh", "in", check=False)
    for _ in range(5):
        assert thief.curl(f"http://{store.v4}/").reason == "no-rule"
        assert lab.host("outsider").curl(f"http://{store.v4}/").reason == "no-identity"
        assert buyer.curl(f"http://{store.v4}/").status == 200


def test_a_foreign_table_cannot_let_calls_past_ours(lab):
    thief, store = lab.host("thief"), lab.host("store")
    thief.run(
        "nft",
        "add table inet foreign; add chain inet foreign out { type nat hook output priority -150; }; add rule inet foreign out accept",
    )
    try:
        assert thief.curl(f"http://{store.v4}/").refused
    finally:
        thief.run("nft", "delete table inet foreign")


def test_a_foreign_redirect_does_not_lead_around_the_servers_door(lab):
    """Address translation happens once, by whose rules come first: then the store's own, not ours."""
    outsider, store = lab.host("outsider"), lab.host("store")
    redirect = "{ type nat hook prerouting priority -150; }; add rule inet foreign in tcp dport 8088 redirect to :80"
    store.run("nft", f"add table inet foreign; add chain inet foreign in {redirect}")
    try:
        for address in (store.v4, f"[{store.v6}]"):
            assert outsider.curl(f"http://{address}:8088/").refused
            assert lab.host("buyer").curl(f"http://{address}/").status == 200
    finally:
        store.run("nft", "delete table inet foreign")


class Probe:
    """Somebody who tries all the while what is forbidden; `admitted` must stay empty."""

    def __init__(self, host, url):
        self.host, self.url = host, url
        self.admitted, self.tries = [], 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        while not self.over.is_set():
            self.tries += 1
            answer = self.host.curl(self.url, timeout=2)
            if answer.status not in (0, 403, 503):
                self.admitted.append(answer)


def test_a_workload_that_is_renamed_keeps_its_doors(lab):
    """Its namespace goes to the new name while the proxy still has the doors of the old one open."""
    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    assert buyer.curl(f"http://{store.v4}/").status == 200

    def captured(key):
        return lambda: any((w["workload"], w["state"]) == (key, "captured") for w in lab.status()["workloads"])

    said = len(lab.log())
    spec = {
        "serviceAccount": "store",
        "labels": {"app": "store"},
        "addresses": [store.v4, store.v6],
        "netns": store.name,
    }
    try:
        lab.write("workload-store", own("Workload", "shelf", spec))
        lab.wait(captured("lab/shelf"), "the new name is captured")
        assert buyer.curl(f"http://{store.v4}/").status == 200
        assert thief.curl(f"http://{store.v4}/").reason == "no-rule"
    finally:
        lab.workload(store)
    lab.wait(captured("lab/store"), "the old name again")
    assert buyer.curl(f"http://{store.v4}/").status == 200
    assert "already in use" not in lab.log()[said:]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_without_its_daemon_the_node_is_closed_until_the_next_start(lab, number):
    buyer, thief, store, outsider = (lab.host(name) for name in ("buyer", "thief", "store", "outsider"))
    url = f"http://{store.v4}/"
    assert buyer.curl(url).status == 200
    with Probe(thief, url) as first, Probe(outsider, url) as second:
        assert lab.down(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        for _ in range(5):
            assert buyer.curl(url).exit_code == 7, "refused, not hanging"
            assert thief.curl(url).exit_code == 7
            assert outsider.curl(url).exit_code == 7
        lab.up()
        assert buyer.curl(url).status == 200
        time.sleep(0.5)
    assert not first.admitted
    assert not second.admitted
    assert first.tries > 5


def test_a_restart_does_not_leave_the_store_open_for_a_moment(lab):
    """The next daemon takes the table over in one transaction, while the one before is still killed."""
    outsider, store = lab.host("outsider"), lab.host("store")
    with Probe(outsider, f"http://{store.v4}/") as probe:
        for _ in range(3):
            lab.down(signal.SIGKILL)
            lab.up()
    assert not probe.admitted


def test_sigterm_lets_a_running_request_end(lab):
    buyer, store = lab.host("buyer"), lab.host("store")
    found = []
    caller = threading.Thread(target=lambda: found.append(buyer.curl(f"http://{store.v4}/slow")))
    caller.start()
    lab.wait(
        lambda: any("/slow" in call["request"] for call in get(lab.socket, "/connections")), "the request is on its way"
    )
    assert lab.down() == 0
    caller.join()
    assert found[0].status == 200, found
    assert "inet edgemesh" in rules(store), "rules stay"
    lab.up()


def test_a_namespace_replaced_under_its_name_is_captured_again_and_the_old_one_released(lab):
    store, buyer = lab.host("store"), lab.host("buyer")
    inode = Path(f"/run/netns/{store.name}").stat().st_ino
    for process in [p for p in lab.processes if store.name in p.args]:
        process.kill()
        process.wait()
    store.delete()
    lab.wait(
        lambda: not any(w["workload"] == "lab/store" and w["state"] == "captured" for w in lab.status()["workloads"]),
        "let go",
    )
    held = [fd for fd in Path(f"/proc/{lab.daemon.pid}/fd").iterdir() if fd.exists() and fd.stat().st_ino == inode]
    assert not held
    lab.wait(
        lambda: sh("ip", "-n", lab.switch, "link", "show", f"{lab.prefix}p{store.number}", check=False).returncode != 0,
        "its veth goes",
    )
    store.make()
    lab.wait(lambda: "inet edgemesh" in rules(store), "captured again")
    lab.http(store, 80)
    lab.tcp(store, 7)
    lab.tcp(store, 3306, "greetings")
    assert buyer.curl(f"http://{store.v4}/").status == 200
    assert lab.host("thief").curl(f"http://{store.v4}/").reason == "no-rule"
    lab.host("outsider").run("ip", "neigh", "flush", "dev", "eth0")  # the old one's hardware address
    assert lab.host("outsider").curl(f"http://{store.v4}/").reason == "no-identity"


def test_a_new_namespace_is_captured_within_a_moment(lab):
    late = lab.host("late")
    lab.workload(late)
    lab.wait(lambda: "inet edgemesh" in rules(late), "captured")
    assert late.curl(f"http://{lab.host('store').v4}/").reason == "no-rule"
    lab.allow("late", "store", GET)
    lab.build()
    assert late.curl(f"http://{lab.host('store').v4}/").status == 200


def test_open_on_stop_takes_the_rules_away(lab):
    store, thief = lab.host("store"), lab.host("thief")
    lab.down()
    lab.settings = {"onStop": "open"}
    lab.up()
    assert thief.curl(f"http://{store.v4}/").refused
    assert lab.down() == 0
    assert "edgemesh" not in rules(store)
    assert thief.curl(f"http://{store.v4}/").status == 200
    lab.settings = {}
    lab.up()
    assert thief.curl(f"http://{store.v4}/").refused


def cleanup():
    root = Path(__file__).parents[2]
    command = [*EDGEMESH, "cleanup"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=root, env={"PATH": PATH}
    )


def test_cleanup_takes_everything_of_ours_and_nothing_else(lab):
    store, thief = lab.host("store"), lab.host("thief")
    store.run("nft", "add table inet foreign")
    store.run("ip", "rule", "add", "fwmark", "0x77", "lookup", "main", "pref", "20000")
    lab.down(signal.SIGKILL)
    # Cleanup is not told what the daemon's marks and tables were.
    lab.settings = {"marks": {"local": 0x75000002, "table": 15999, "preference": 15999}}
    lab.up()
    assert "15999" in store.run("ip", "rule").stdout
    assert lab.host("buyer").curl(f"http://{store.v4}/").status == 200
    lab.down(signal.SIGKILL)
    said = cleanup()
    assert "table inet edgemesh" in said.stdout, said
    assert rules(store).split() == ["table", "inet", "foreign"]
    assert not cgroup.folder(cgroup.mount(), lab.node).exists() if cgroup.mount() else True
    for version in ("-4", "-6"):
        assert "lookup 15" not in store.run("ip", version, "rule").stdout
        assert not store.run("ip", version, "route", "show", "table", "all", "proto", "237").stdout
        assert not store.run("ip", version, "route", "show", "table", "15006", check=False).stdout
        assert "240.240" not in store.run("ip", version, "route").stdout
        assert "fdce:ed6e" not in store.run("ip", version, "route").stdout
    assert store.run("ip", "rule", "show", "pref", "20000").stdout, "another's rule"
    assert thief.curl(f"http://{store.v4}/").status == 200
    store.run("nft", "delete table inet foreign")
    lab.settings = {}
    lab.up()
    assert thief.curl(f"http://{store.v4}/").refused
