"""A site that is cut off: no default route, a resolver that does not answer. What the mesh has itself goes on as if nothing were."""

import time

import pytest

from agent.admin.client import get
from tests.netns.test_names_and_ways import ASK, ASK_TCP
from tests.netns.two_nodes import mesh

__all__ = ("mesh",)  # a fixture

ASK6 = ASK.replace("\\0\\1\\0\\1", "\\0\\x1c\\0\\1").replace(
    "socket.inet_ntoa(r[-4:])", "socket.inet_ntop(socket.AF_INET6, r[-16:])"
)


@pytest.fixture
def no_way_out(lab):
    """The buyer's namespace is on its bridge and has no default route of either family."""
    buyer = lab.host("buyer")
    for version in ("-4", "-6"):
        buyer.run("ip", version, "route", "del", "default")
    yield buyer
    buyer.run("ip", "route", "add", "default", "via", f"{lab.subnet}.254")
    buyer.run("ip", "-6", "route", "add", "default", "via", f"{lab.subnet6}::254")


def test_names_of_services_are_answered_without_a_route_to_the_resolver(no_way_out):
    for asked in ("192.0.2.1", "2001:db8::1"):
        for name in ("store", "store.lab", "store.lab.svc.cluster.local"):
            assert no_way_out.python(ASK, asked, name).startswith("240.240."), (asked, name)
            assert no_way_out.python(ASK6, asked, name).startswith("fdce:"), (asked, name)
        assert no_way_out.python(ASK_TCP, asked, "store").startswith("240.240."), asked


def test_service_addresses_are_dialled_without_a_default_route(no_way_out):
    for ask in (ASK, ASK6):
        address = no_way_out.python(ask, "192.0.2.1", "store")
        host = f"[{address}]" if ":" in address else address
        assert no_way_out.curl(f"http://{host}/").status == 200, address


def test_a_program_calls_by_name_without_a_default_route(no_way_out):
    for nameserver in ("192.0.2.1", "2001:db8::1"):
        assert no_way_out.curl_by_name("http://store/", nameserver).status == 200, nameserver


def test_other_names_fail_at_once_without_a_route_to_the_resolver(no_way_out):
    """Nobody waits for a resolver that cannot be reached: the question is answered that it failed, as fast as the kernel would."""
    for asked in ("192.0.2.1", "2001:db8::1"):
        began = time.monotonic()
        assert no_way_out.python(ASK, asked, "example.org") == "rcode 2", asked
        assert time.monotonic() - began < 4.0, "the resolver would have had five"


def test_only_questions_for_names_have_a_way(no_way_out):
    """A program that tries one address family after the other has to be told at once that it has none of one."""
    for family, address in (("AF_INET", "192.0.2.1"), ("AF_INET6", "2001:db8::1")):
        code = f"""
            import socket
            s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
            try:
                s.connect(("{address}", 54))
            except OSError as error:
                print(error.strerror)
        """
        assert no_way_out.python(code) == "Network is unreachable", address


KUBERNETES = "search lab.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"


@pytest.fixture
def dead_resolver(lab):
    """An address on the bridge that nobody has."""
    return f"{lab.subnet}.250"


@pytest.mark.parametrize("name", ["store", "store.lab", "store.lab.svc", "store.lab.svc.cluster.local"])
def test_whatever_the_search_list_a_service_is_called_at_once_though_the_resolver_is_dead(lab, dead_resolver, name):
    """As a pod has it in Kubernetes: libc appends each suffix of the list before it tries the name itself."""
    began = time.monotonic()
    assert lab.host("buyer").curl_by_name(f"http://{name}/", dead_resolver, KUBERNETES).status == 200
    assert time.monotonic() - began < 4.0, "the first question that waited would have taken five"


def test_a_dead_resolver_is_waited_for_once_and_not_by_each_name(lab, dead_resolver):
    """What may be a name of the world outside has to be asked for; after the first time nobody waits."""
    thief = lab.host("thief")
    took = []
    for _ in range(6):
        began = time.monotonic()
        thief.curl_by_name("http://store/", dead_resolver, "search lan\noptions timeout:6 attempts:1\n", timeout=30)
        took.append(time.monotonic() - began)
    assert sum(took[1:]) < 20.0, "five seconds each, if it were waited for each time"


# It answers each question with 192.0.2.7, for a second, over IPv4 and IPv6.
RESOLVER = """
    import socket
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", 53))
    print("ready")
    while True:
        asked, client = sock.recvfrom(4096)
        end = asked.index(b"\\0", 12) + 5
        head = asked[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + asked[12:end]
        sock.sendto(head + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\xc0\\0\\2\\7", client)
"""


def test_what_a_resolver_said_is_known_when_it_is_dead_and_status_says_so(lab):
    thief, outsider = lab.host("thief"), lab.host("outsider")
    resolver = outsider.start(RESOLVER)
    asked = (outsider.v4, outsider.v6)
    try:
        for address in asked:
            assert thief.python(ASK, address, "www.example.org") == "192.0.2.7", address
    finally:
        resolver.kill()
        resolver.wait()
    outsider.run(
        "nft",
        "add table inet dead; add chain inet dead in { type filter hook input priority 0; }; add rule inet dead in udp dport 53 drop",
    )
    try:
        time.sleep(1.1)  # its time is over
        for address in asked:
            assert thief.python(ASK, address, "www.example.org") == "192.0.2.7", address
        began = time.monotonic()
        assert thief.python(ASK, outsider.v4, "other.example.org") == "rcode 2"
        assert thief.python(ASK, outsider.v4, "third.example.org") == "rcode 2"
        assert time.monotonic() - began < 8.0
        names = get(lab.socket, "/status")["names"]
        assert outsider.v4 in {down["resolver"] for down in names["down"]}
        assert names["questions"]["stale"] >= 2
    finally:
        outsider.run("nft", "delete", "table", "inet", "dead")


# another node


def test_a_node_that_cannot_be_reached_is_told_where_people_look_and_nobody_waits_long(mesh):
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    buyer, url = mesh.leaves["buyer"], f"http://{mesh.leaves['store'].v4}/books"
    assert buyer.curl(url).status == 200

    def known():
        (found,) = [node for node in get(n1.socket, "/status")["nodes"] if node["node"] == n2.name]
        return found

    assert known()["reachable"] is True
    n2.link(False)
    try:
        answer = buyer.curl(
            url, timeout=25
        )  # on the connection that was open: it has to be found out first that it is gone
        assert (answer.status, answer.reason) in ((503, "node-unreachable"), (503, "peer-lost")), answer
        answer = buyer.curl(url, timeout=15)
        assert (answer.status, answer.reason) == (503, "node-unreachable"), answer
        assert "is there a link to it? edgemesh status shows" in answer.body
        lost = known()
        assert (lost["reachable"], lost["connections"]) == (False, 0)
        assert lost["error"]
        assert f"node {n2.name} ({n2.v4}) cannot be reached" in n1.log()
        shown = n1.edgemesh("status", "--socket", n1.socket, check=False).stdout
        assert n2.name in shown
        assert "NO" in shown
    finally:
        n2.link(True)
    mesh.wait(mesh.works, "calls pass again")
    assert known()["reachable"] is True
    assert f"node {n2.name} ({n2.v4}) is reached again" in n1.log()
