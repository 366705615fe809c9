"""The tunnel doors on the real kernel: dialled from outside without a redirect, around everything that a stranger may set up."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from agent.system import cgroup
from nodeproxy.capture import Ports
from policy.model import Exclusions
from tests.netns.conftest import sh
from tests.netns.test_capture_kernel import (
    A,
    B,
    Echo,
    delete,
    dial,
    ground,
    inside,
    ip,
    lives,
    nft_in,
    settle,
    workload,
)

__all__ = ("ground",)  # a fixture

TUNNEL = Ports().tunnel
ADDRESSES = pytest.mark.parametrize("address", ["10.77.9.1", "fd77:9::1"])


@pytest.fixture
def pair():
    """A, which is captured, and B beside it; both families."""
    delete(A, B)
    for name in (A, B):
        sh("ip", "netns", "add", name)
        ip(name, "link", "set", "lo", "up")
    ip(A, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", B)
    for number, name in enumerate((A, B), 1):
        ip(name, "addr", "add", f"10.77.9.{number}/24", "dev", "eth0")
        ip(name, "addr", "add", f"fd77:9::{number}/64", "dev", "eth0", "nodad")
        ip(name, "link", "set", "eth0", "up")
    yield
    delete(A, B)


def call(name, address, port):
    """A connection, or the word of how it failed."""
    with inside(name):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(2)
    try:
        sock.connect((address, port))
    except OSError as error:
        sock.close()
        return type(error).__name__
    return sock


def taken(listeners):
    """Accept from whichever of these has somebody: the connection and the listener."""
    for listener in listeners:
        try:
            return listener.accept()[0], listener
        except BlockingIOError:
            continue
    raise AssertionError("nobody came")


@ADDRESSES
def test_it_is_reached_from_outside_as_it_was_dialled(pair, ground, address):
    assert settle(ground, workload()) == {f"n/{A}": ""}
    doors = ground.doors[f"n/{A}"]
    assert sorted(s.getsockname()[0] for s in doors.tunnel) == ["0.0.0.0", "::"]
    caller = call(B, address, TUNNEL)
    server, door = taken(doors.tunnel)
    assert server.getsockname()[:2] == (address, TUNNEL)
    assert server.getpeername()[0] == ("fd77:9::2" if ":" in address else "10.77.9.2")
    caller.sendall(b"x")
    server.settimeout(2)
    assert server.recv(1) == b"x"
    assert door in doors.tunnel
    for sock in (caller, server):
        sock.close()


@ADDRESSES
def test_everything_else_is_redirected_as_before(pair, ground, address):
    settle(ground, workload())
    doors = ground.doors[f"n/{A}"]
    for port in (80, 443, Ports().outbound, Ports().inbound, Ports().dns):
        caller = call(B, address, port)
        server, _ = taken(doors.inbound)
        server.close()
        caller.close()
    with pytest.raises(AssertionError, match="nobody"):
        taken(doors.tunnel)


def test_what_its_own_programs_dial_elsewhere_at_that_port_is_captured(pair, ground):
    settle(ground, workload())
    doors = ground.doors[f"n/{A}"]
    caller = call(A, "10.77.9.2", TUNNEL)
    taken(doors.outbound)[0].close()
    caller.close()
    caller = call(A, "127.0.0.1", TUNNEL)
    taken(doors.tunnel)[0].close()
    caller.close()


@ADDRESSES
@pytest.mark.parametrize("priority", [-150, -50])
def test_a_foreign_redirect_leads_neither_away_nor_around(pair, ground, address, priority):
    """Before ours and after: what was dialled at the door reaches nobody else, and what was dialled elsewhere no server."""
    settle(ground, workload())
    foreign = f"add table inet foreign; add chain inet foreign in {{ type nat hook prerouting priority {priority}; }}; "
    nft_in(A, foreign + f"add rule inet foreign in tcp dport {{ {TUNNEL}, 81 }} redirect to :8080", check=True)
    with server(8080) as echo:
        assert call(B, address, TUNNEL) == "ConnectionRefusedError"
        found = call(B, address, 81)
        if priority < -100:
            assert found == "ConnectionRefusedError"
        else:  # ours was first
            taken(ground.doors[f"n/{A}"].inbound)[0].close()
            found.close()
        assert echo.accepted == 0


def test_a_foreign_rule_that_takes_it_out_of_connection_tracking_leads_to_the_door_or_nowhere(pair, ground):
    settle(ground, workload())
    foreign = "add table inet foreign; add chain inet foreign raw { type filter hook prerouting priority -301; }; "
    nft_in(A, foreign + f"add rule inet foreign raw tcp dport {{ {TUNNEL}, 8080 }} notrack", check=True)
    caller = call(B, "10.77.9.1", TUNNEL)
    taken(ground.doors[f"n/{A}"].tunnel)[0].close()
    caller.close()
    with server(8080) as echo:
        assert isinstance(call(B, "10.77.9.1", 8080), str)
        assert echo.accepted == 0


@ADDRESSES
def test_rules_stay_when_we_are_killed_and_the_door_is_closed(pair, ground, address):
    settle(ground, workload())
    ground.doors[f"n/{A}"].close()  # as the kernel closes them
    for port in (TUNNEL, 80):
        assert call(B, address, port) == "ConnectionRefusedError", port


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("port", [Ports().tunnel, Ports().inbound])
@pytest.mark.parametrize("own_cgroup", [True, False])
def test_a_program_of_the_workload_at_our_port_is_not_reached_from_outside(pair, request, own_cgroup, port, early):
    """Neither one that was there before us, nor one that comes while we do not run."""
    if own_cgroup:
        request.getfixturevalue("needs_cgroup")
    with contextlib.ExitStack() as stack:
        if early:
            echo = stack.enter_context(server(port))
        daemon = stack.enter_context(Daemon({"netns": A}, own_cgroup=own_cgroup))
        assert (f"port {port} on 0.0.0.0: Address already in use" in daemon.fault) == early
        if not early:
            daemon.kill()
            echo = stack.enter_context(server(port))
        for address in ("10.77.9.1", "fd77:9::1"):
            for dialled in (port, 80) if port == Ports().inbound else (port,):
                assert call(B, address, dialled) == "ConnectionRefusedError", (address, dialled)
        assert echo.accepted == 0
        own = dial(A, "127.0.0.1", port)
        assert lives(own), "its own programs reach it as ever"
        own.close()


def test_a_program_at_the_outbound_port_gets_none_of_the_calls(pair, ground):
    with server(Ports().outbound) as echo:
        assert "port 15001 on 127.0.0.1" in settle(ground, workload())[f"n/{A}"]
        for address in ("10.77.9.2", "fd77:9::2"):
            assert call(A, address, 99) == "ConnectionRefusedError"
        assert echo.accepted == 0
        own = dial(A, "127.0.0.1", Ports().outbound)
        assert lives(own)
        own.close()
    ground.settle()
    caller = call(A, "10.77.9.2", 99)
    taken(ground.doors[f"n/{A}"].outbound)[0].close()
    caller.close()


def test_a_repeated_syn_finds_its_half_open_connection(pair, ground):
    """When our answer is lost the caller asks again, and then no listening socket is found: only a half-open connection."""
    settle(ground, workload())
    foreign = "add table ip foreign; add chain ip foreign in { type filter hook prerouting priority -400; }; "
    # Two: after a second both sides try again, and the caller's own try is what this is about.
    lost = (
        "add rule ip foreign in tcp flags & (syn | ack) == syn | ack limit rate 1/minute burst 2 packets counter drop"
    )
    nft_in(B, foreign + lost, check=True)
    caller = call(B, "10.77.9.1", TUNNEL)
    assert not isinstance(caller, str), caller
    caller.close()
    assert "packets 2 " in nft_in(B, "list ruleset").stdout


@pytest.mark.parametrize("port", [TUNNEL, 80])
def test_a_caller_may_use_its_port_again_while_our_end_of_the_connection_before_is_remembered(pair, ground, port):
    """In TIME_WAIT it is no listening socket either."""
    settle(ground, workload())
    doors = ground.doors[f"n/{A}"]
    source = 0
    for _ in range(3):
        with inside(B):
            caller = socket.socket()
        caller.settimeout(2)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind(("10.77.9.2", source))
        source = caller.getsockname()[1]
        caller.connect(("10.77.9.1", port))
        taken(doors.tunnel if port == TUNNEL else doors.inbound)[0].close()
        assert caller.recv(1) == b""
        caller.close()
    assert f":{source}" in sh("ip", "netns", "exec", A, "ss", "-Htan", "state", "time-wait").stdout


def test_a_door_of_its_own_port_and_one_that_moves(pair, ground):
    for port in (16000, 16001):
        settle(ground, workload(tunnel_port=port))
        caller = call(B, "10.77.9.1", port)
        taken(ground.doors[f"n/{A}"].tunnel)[0].close()
        caller.close()
    caller = call(B, "10.77.9.1", TUNNEL)
    taken(ground.doors[f"n/{A}"].inbound)[0].close()
    caller.close()


def test_an_excluded_port_is_still_the_servers_own(pair, ground):
    settle(ground, workload(exclusions=Exclusions(inbound_ports=(22,))))
    with server(22):
        caller = dial(B, "10.77.9.1", 22)
        assert lives(caller)
        caller.close()


# the node's own


def test_the_nodes_own_door(pair, ground):
    with inside(A):
        doors, fault = ground.node_doors(("10.77.9.1", "fd77:9::1"))
        squatted, said = ground.node_doors(("10.77.9.1",))
        later, missing = ground.node_doors(("10.77.9.200",))
    assert (fault, squatted) == ("", [])
    assert "no tunnel listener at port 15008 of 10.77.9.1: Address already in use" in said
    assert "does not have its address 10.77.9.200" in missing
    ip(A, "addr", "add", "10.77.9.200/24", "dev", "eth0")
    for address, door in (("10.77.9.1", doors[0]), ("fd77:9::1", doors[1]), ("10.77.9.200", later[0])):
        caller = call(B, address, TUNNEL)
        door.accept()[0].close()
        caller.close()
    for door in (*doors, *later):
        door.close()


def test_what_the_node_dials_is_made_where_the_daemon_lives(pair, ground):
    settle(ground, workload())
    for family in (socket.AF_INET, socket.AF_INET6):
        with ground.from_node(family) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == ground.capture.marks.bypass, "in mark mode"
            assert not sock.getblocking()
            assert sock.connect_ex(("10.77.9.1" if family == socket.AF_INET else "fd77:9::1", TUNNEL)) != 0, (
                "A is not from here"
            )


# units


@pytest.fixture
def unit(needs_cgroup):
    """The name of a unit that runs: a cgroup with nobody in it."""
    folder = needs_cgroup / "system.slice" / f"emk-{os.getpid()}.service"
    there = folder.parent.exists()
    folder.mkdir(parents=True)
    yield folder.name
    folder.rmdir()
    if not there:
        folder.parent.rmdir()


@ADDRESSES
def test_a_unit_is_reached_at_its_own_tunnel_door_only(pair, unit, address):
    with Daemon({"unit": unit, "tunnel_port": 16000}, where=A) as daemon:
        assert daemon.fault == ""
        for name in (B, A):
            caller = call(name, address, 16000)
            assert daemon.take("tunnel") == str((address, 16000))
            caller.close()
        for port in (15100, 15101, TUNNEL):
            assert call(B, address, port) == "ConnectionRefusedError"
        assert daemon.take("inbound") == "nobody"
    assert call(B, address, 16000) == "ConnectionRefusedError"


# what the tests are made of


@contextlib.contextmanager
def server(port):
    """A program in A that listens at both families."""
    echo = Echo(A, port, "::")
    yield echo
    echo.close()


DAEMON = """
    import sys
    from agent.config.settings import NodeConfig
    from agent.kernel.capture import CaptureManager
    from policy.model import Workload
    ground = CaptureManager(NodeConfig(node=sys.argv[1]), own_cgroup=sys.argv[3] == "True")
    doors = {}
    ground.serve(lambda workload, opened: doors.update({workload.key: opened}), lambda key: doors.pop(key).close())
    ground.want([Workload("n", "u", "u", node=sys.argv[1], **eval(sys.argv[2]))])
    ground.settle()
    print(ground.conditions()["n/u"].error, flush=True)
    for line in sys.stdin:
        for sock in getattr(doors["n/u"], line.strip()):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                continue
            print(connection.getsockname()[:2], flush=True)
            connection.close()
            break
        else:
            print("nobody", flush=True)
"""


class Daemon:
    """A CaptureManager with one workload in a process and a cgroup of its own: the tests themselves must not be taken for it."""

    def __init__(self, spec, where="", own_cgroup=True):
        inside_ = ["nsenter", f"--net=/run/netns/{where}"] if where else []
        words = [*inside_, sys.executable, "-c", textwrap.dedent(DAEMON), "emk-daemon", repr(spec), str(own_cgroup)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self):
        self.fault = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        self.kill()

    def take(self, door):
        """What the connection was aimed at that a door of this kind takes; "nobody" for none."""
        self.process.stdin.write(f"{door}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.communicate()
        if (root := cgroup.mount()) is not None:
            cgroup.leave(cgroup.folder(root, "emk-daemon"))
