"""The namespaces of the demo: made, joined, told where names are, and gone again. Needs the right to make namespaces."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.demo import network
from agent.demo.network import Network, remove_leftovers
from agent.demo.plan import Host, hosts, sites
from agent.demo.surroundings import environment

PREFIX = "emt-"  # a demo may be running beside the tests
PAIR = (Host("left", 11), Host("right", 12))

pytestmark = [
    pytest.mark.slow,
    # pyroute2's forked helper leaves a socket pair to the collector; a later test must not be blamed for it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]


def run(host: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", PREFIX + host, *command], capture_output=True, text=True, check=False, timeout=20
    )


def names() -> set[str]:
    return {path.name for path in network.RUN.glob(f"{PREFIX}*")} | {
        path.name for path in network.ETC.glob(f"{PREFIX}*")
    }


@pytest.fixture
def pair():
    with Network(PAIR, PREFIX, configure_names=os.access("/etc", os.W_OK)) as made:
        yield made
    assert names() == set()


def test_boxes_reach_each_other_over_both_families(pair):
    # One process listens, the other connects: no ping, which is not everywhere.
    server = (
        "import socket, sys\n"
        "with socket.create_server((sys.argv[1], 7000), family=int(sys.argv[2])) as s:\n"
        "    print('up', flush=True); c, a = s.accept(); c.sendall(a[0].encode()); c.close()\n"
    )
    client = "import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 5).recv(99).decode())"
    families = [(PAIR[1].address4, PAIR[0].address4, 2)] + (
        [(PAIR[1].address6, PAIR[0].address6, 10)] if pair.ipv6 else []
    )
    for there, here, family in families:
        listening = subprocess.Popen(
            ["ip", "netns", "exec", f"{PREFIX}right", sys.executable, "-c", server, there, str(family)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "up\n"
            assert run("left", sys.executable, "-c", client, there).stdout.strip() == here
        finally:
            listening.kill()
            listening.communicate()


def test_loopback_is_up_and_everything_else_goes_to_the_bridge(pair):
    assert "LOOPBACK,UP" in run("left", "ip", "link", "show", "lo").stdout
    assert "default via 10.71.0.1" in run("left", "ip", "-4", "route").stdout
    if pair.ipv6:
        assert "default via fd71:656d::1" in run("left", "ip", "-6", "route").stdout


def test_the_resolver_is_the_bridge_where_etc_is_ours_to_write(pair):
    answer = run("left", "cat", "/etc/resolv.conf").stdout
    assert ("nameserver 10.71.0.1" in answer) is pair.configure_names


def test_leftovers_of_a_killed_demo_go_at_the_next_start():
    code = (
        "import os, signal\nfrom agent.demo.network import Network\nfrom agent.demo.plan import Host\n"
        f"Network((Host('left', 11),), {PREFIX!r}, configure_names={os.access('/etc', os.W_OK)}).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert f"{PREFIX}left" in names()
    orphan = subprocess.Popen(["ip", "netns", "exec", f"{PREFIX}left", "sleep", "600"])
    while Path(f"/proc/{orphan.pid}/comm").read_text() != "sleep\n":
        assert orphan.poll() is None
    with Network(PAIR, PREFIX, configure_names=os.access("/etc", os.W_OK)):
        assert orphan.wait(5) == -signal.SIGTERM
        assert run("right", "true").returncode == 0
    assert names() == set()


def test_a_process_that_ignores_sigterm_is_killed(pair):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    stubborn = subprocess.Popen(
        ["ip", "netns", "exec", f"{PREFIX}left", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    network._end_processes([network.RUN / f"{PREFIX}left"], patience=0.1)
    assert stubborn.wait(5) == -signal.SIGKILL
    stubborn.stdout.close()


def test_nothing_of_us_unwinds_twice_whatever_our_handlers_do(tmp_path):
    """pyroute2 ends its forked helpers by SIGTERM: a handler of ours must not run in such a copy of us."""
    here = os.getpid()
    seen_elsewhere = tmp_path / "seen"

    def stop(_number, _frame):
        if os.getpid() != here:
            seen_elsewhere.touch()
            os._exit(1)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for _ in range(5):
            with Network(PAIR, PREFIX, configure_names=False):
                pass
        assert not seen_elsewhere.exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_while_it_is_made_leaves_nothing(monkeypatch):
    def make(self):
        self._namespace(self.name("left"))
        signal.raise_signal(
            signal.SIGINT
        )  # held back until the end of this; os.kill might choose a thread that another test has left
        self._namespace(self.name("right"))
        assert names() >= {f"{PREFIX}left", f"{PREFIX}right"}

    monkeypatch.setattr(Network, "_make", make)
    # A runner in the background has SIGINT ignored, and hands that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Network(PAIR, PREFIX, configure_names=False):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert names() == set()


def test_what_a_demo_of_root_left_in_etc_is_left_alone_where_etc_is_not_ours(tmp_path, monkeypatch):
    """Without root it cannot be removed, and the kernel was blamed for that."""
    monkeypatch.setattr(network, "ETC", tmp_path)
    (tmp_path / f"{PREFIX}left").mkdir()
    (tmp_path / f"{PREFIX}left" / "resolv.conf").write_text("x")
    remove_leftovers(PREFIX, names_too=False)
    assert (tmp_path / f"{PREFIX}left" / "resolv.conf").exists()
    remove_leftovers(PREFIX)
    assert not tmp_path.exists()


def test_removing_nothing_is_no_error():
    remove_leftovers(PREFIX)
    remove_leftovers(PREFIX)


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_plan_has_no_address_twice(nodes):
    boxes, where = hosts(nodes), sites(nodes)
    found = [address for box in boxes for address in (box.address4, box.address6)]
    found += [address for site in where for address in (site.gateway4, site.gateway6)]
    if nodes > 1:
        found += [address for site in where for address in (site.link4, site.link6)]
    assert len(set(found)) == len(found)
    assert {str(ipaddress.ip_address(address)) for address in found} == set(found), "as people write them"
    for box in boxes:
        networks = next(site.subnets for site in where if site.number == box.site)
        for address, subnet in zip((box.address4, box.address6), networks, strict=True):
            assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet)


def reaches(host: str, address: str) -> bool:
    """Does the box there answer? It refuses: nobody listens."""
    code = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 9), 1)\n"
        "except ConnectionRefusedError: print('there')\n"
        "except OSError: pass\n"
    )
    return run(host, sys.executable, "-c", code, address).stdout == "there\n"


def test_boxes_of_two_nodes_reach_each_other_over_a_link_that_can_be_down(eventually):
    left, right = (Host("left", 11, 1), Host("right", 12, 2))
    with Network((left, right), PREFIX, configure_names=False, sites=sites(2)) as made:
        addresses = [right.address4, *([right.address6] if made.ipv6 else [])]
        for _ in range(2):
            for address in addresses:  # for a moment the kernel asks whether a link-local address is another's
                eventually(lambda address=address: reaches("left", address))
            assert reaches("right", left.address4)
            made.link(up=False)
            assert not any(reaches("left", address) for address in addresses)
            made.link(up=True)
    assert names() == set()
