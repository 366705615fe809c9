"""The fault ring: two nodes and their authority, on the real kernel, while links, daemons, roots and policies come and go."""

import contextlib
import json
import socket
import time
from collections import Counter

import pytest

from agent.admin.client import get
from tests.netns.conftest import own, sh
from tests.netns.test_capture_kernel import inside
from tests.netns.two_nodes import LINK, mesh

__all__ = ("mesh",)  # a fixture

MARKER = "books-that-nobody-on-the-link-reads"


class Wire:
    """Every byte that passes on the link of a node."""

    def __init__(self, node):
        with inside(node.name):
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        self.sock.bind((LINK, 0))
        self.sock.setblocking(False)

    def heard(self):
        found = []
        while True:
            try:
                found.append(self.sock.recv(65536))
            except BlockingIOError:
                return b"".join(found)


@pytest.fixture
def wire(mesh):
    wire = Wire(mesh.nodes["n1"])
    yield wire
    wire.sock.close()


def test_calls_between_nodes_are_not_read_on_the_link(mesh, wire):
    buyer, store = mesh.leaves["buyer"], mesh.leaves["store"]
    answer = buyer.curl(f"http://{store.v4}/books/{MARKER}", "-d", MARKER, "-X", "GET")
    assert (answer.status, answer.body) == (200, f"store saw ::ffff:{buyer.v4} /books/{MARKER}"), answer
    assert mesh.talk().say(MARKER) == f"echo {MARKER}"
    heard = wire.heard()
    assert len(heard) > 1000
    for word in (MARKER, "GET /", "HTTP/1.1", "/books", "store saw"):
        assert word.encode() not in heard, word
    with inside(mesh.nodes["n1"].name), socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendto(MARKER.encode(), (mesh.nodes["n2"].v4, 9))
    assert MARKER.encode() in wire.heard()  # it hears what is said aloud


def test_what_no_rule_admits_is_refused_and_does_not_leave(mesh, wire):
    url = f"http://{mesh.leaves['store'].v4}"
    answer = mesh.leaves["buyer"].curl(f"{url}/admin")
    assert (answer.status, answer.reason) == (403, "no-http-match")
    answer = mesh.leaves["thief"].curl(f"{url}/books")
    assert (answer.status, answer.reason) == (403, "no-rule")
    assert not [r for r in mesh.nodes["n2"].records() if r.get("source", "").endswith("thief")]


def test_a_stranger_in_plain_text_gets_nowhere(mesh):
    stranger, store, n2 = mesh.leaves["stranger"], mesh.leaves["store"], mesh.nodes["n2"]
    for address, flag in (
        (f"{store.v4}:15008", "plain-to-tunnel"),
        (f"{n2.v4}:15008", "plain-to-tunnel"),
        (store.v4, "no-identity"),
    ):
        before = len(n2.records())
        answer = stranger.curl(f"http://{address}/books")
        assert answer.refused, (address, answer)
        mesh.wait(lambda before=before: len(n2.records()) > before, f"a record of {address}")
        assert flag in {record.get("flag") for record in n2.records()[before:]}, (address, n2.records()[before:])


def test_a_refused_opaque_call_is_cut_off(mesh):
    talk = "import socket; s = socket.create_connection((__import__('sys').argv[1], 7), 5); s.sendall(b'x'); print(s.recv(9))"
    assert "echo" not in mesh.leaves["thief"].python(talk, mesh.leaves["store"].v4)
    assert "echo" in mesh.leaves["buyer"].python(talk, mesh.leaves["store"].v4)


# daemons that die

# Calls until it is told to stop; prints what became of them: {"200": 317, "403 no-rule": 2, ...}
CALLER = """
    import collections, http.client, json, signal, sys, time
    seen, going = collections.Counter(), [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    print("ready")
    connection = http.client.HTTPConnection(sys.argv[1], timeout=8)
    while going:
        try:
            connection.request("GET", sys.argv[2])
            response = connection.getresponse()
            response.read()
            word = f"{response.status} {response.getheader('x-edgemesh-reason', '')}".strip()
        except (OSError, http.client.HTTPException) as error:
            word = type(error).__name__
            connection.close()
        seen[word] += 1
        time.sleep(0.005)
    print(json.dumps(seen), flush=True)
"""


@contextlib.contextmanager
def calling(mesh, leaf, path="/books"):
    """Calls of the store one after the other, all the while; what became of them is in the Counter when it ends."""
    seen = Counter()
    process = mesh.leaves[leaf].start(CALLER, mesh.leaves["store"].v4, path)
    try:
        yield seen
    finally:
        process.terminate()
        seen.update(json.loads(process.stdout.readline()))


def serials(node):
    return {one["serial"] for one in get(node.socket, "/certs")["certificates"]}


def test_nodes_do_without_their_authority(mesh):
    hub, n1, n2 = mesh.nodes.values()
    hub.kill()
    with calling(mesh, "buyer") as seen:
        mesh.wait(lambda: get(n1.socket, "/certs")["authority"]["silent_seconds"] > 0, "n1 misses the authority")
    assert set(seen) == {"200"}
    for node in (n2, n1):
        node.kill()
        node.up()  # from what its vault holds
        mesh.wait(mesh.works, f"calls after {node.plain} came back")
        assert get(node.socket, "/certs")["authority"]["error"]
    assert mesh.talk().lives()
    hub.up()
    for node in (n1, n2):
        before = serials(node)
        mesh.wait(
            lambda node=node, before=before: before.isdisjoint(serials(node)), f"new certificates on {node.plain}", 40
        )
    assert mesh.works()


def test_a_node_killed_under_load_admits_nobody_whom_policy_does_not(mesh):
    """The thief's calls reach n2, which alone knows that he may not; the stranger's come in plain text."""
    n2 = mesh.nodes["n2"]
    mesh.allow("thief", "store", nodes=["n1"])
    mesh.build()
    talk = mesh.talk()
    assert talk.lives()
    with (
        calling(mesh, "thief") as thief,
        calling(mesh, "stranger") as stranger,
        calling(mesh, "buyer", "/admin") as admin,
    ):
        with calling(mesh, "buyer") as seen:
            time.sleep(0.3)
            n2.kill()
            mesh.wait(lambda: not talk.lives(), "the open connection ends")
            time.sleep(0.5)
            n2.up()
            mesh.wait(mesh.works, "calls after n2 came back")
        with calling(mesh, "buyer") as after:
            time.sleep(0.5)
    mesh.remove("access-thief-store", nodes=["n1"])
    mesh.build()
    assert seen.pop("200") > 5
    assert seen.pop("ConnectionResetError", 0) <= 1  # its answer had begun
    assert {word.partition(" ")[0] for word in seen} <= {"502", "503"}, seen
    assert set(after) == {"200"}
    assert thief.pop("403 no-rule") > 5
    assert {word.partition(" ")[0] for word in thief} <= {"502", "503"}, thief
    assert set(admin) == {"403 no-http-match"}
    assert stranger
    assert not [word for word in stranger if word.startswith(("2", "3"))], stranger


# links


def carried(node):
    return [one for one in get(node.socket, "/connections") if one["protocol"] == "tcp"]


def test_a_link_that_is_down(mesh):
    n1 = mesh.nodes["n1"]
    n1.link(False)
    try:
        answer = mesh.leaves["buyer"].curl(f"http://{mesh.leaves['store'].v4}/books", timeout=8)
        assert (answer.status, answer.reason) in ((503, "node-unreachable"), (503, "peer-lost")), answer
    finally:
        n1.link(True)
    mesh.wait(mesh.works, "calls after the link is up")


def test_a_link_that_goes_dead_without_a_word(mesh):
    """The carrier stays on n1's side: it must find out by asking."""
    n2, talk = mesh.nodes["n2"], mesh.talk()
    assert talk.lives()
    port = ("ip", "-n", mesh.switch, "link", "set", "n2")
    sh(*port, "nomaster")
    try:
        begun = time.monotonic()
        assert not talk.lives()
        assert time.monotonic() - begun < 6
        mesh.wait(lambda: not carried(n2), "n2 finds it out too, and lets go")
        answer = mesh.leaves["buyer"].curl(f"http://{mesh.leaves['store'].v4}/books", timeout=8)
        assert (answer.status, answer.reason) in ((503, "node-unreachable"), (503, "peer-lost")), answer
    finally:
        sh(*port, "master", "br0")
    mesh.wait(mesh.works, "calls after the link is up")


# roots, revocations, tokens


def test_roots_are_rotated_under_load(mesh):
    hub = mesh.nodes["hub"]

    def rotate(step):
        mesh.wait(
            lambda: hub.edgemesh("ca", "rotate", step, "--state", str(hub.state), check=False).returncode == 0, step, 30
        )

    def roots(node):
        return {root["fingerprint"] for root in get(mesh.nodes[node].socket, "/certs")["roots"]}

    (old,) = roots("n1")
    talk = mesh.talk()
    assert talk.lives()
    with calling(mesh, "buyer") as seen:
        for step in ("add", "issue", "retire"):
            rotate(step)
        mesh.wait(
            lambda: all(len(roots(node)) == 1 and old not in roots(node) for node in mesh.nodes),
            "the old root is gone",
            20,
        )
        assert mesh.works()
    assert set(seen) == {"200"}, seen
    assert seen["200"] > 200
    assert talk.lives()


@pytest.mark.parametrize("who", ["node", "identity"])
def test_who_is_revoked_is_cut_off_until_the_revocation_says_otherwise(mesh, who):
    """n1 is not told that it is itself revoked: to it n2 only hangs up."""
    if who == "node":
        spec, nodes, refusal = {"nodes": [mesh.nodes["n1"].name]}, ["n2"], (503, "peer-lost")
    else:
        spec, nodes, refusal = (
            {"identities": [{"namespace": "lab", "serviceAccount": "buyer"}]},
            ["n1", "n2"],
            (403, "revoked"),
        )
    n2, talk = mesh.nodes["n2"], mesh.talk()
    assert talk.lives()
    before = len(n2.records())
    mesh.write("revocation", own("Revocation", "lost", spec), nodes=nodes)
    mesh.build()
    assert not talk.lives()
    answer = mesh.leaves["buyer"].curl(f"http://{mesh.leaves['store'].v4}/books")
    assert (answer.status, answer.reason) == refusal, answer
    mesh.wait(lambda: "peer-revoked" in {record["flag"] for record in n2.records()[before:]}, "n2 says why")
    mesh.remove("revocation", nodes=nodes)
    mesh.build()
    answer = mesh.leaves["buyer"].curl(f"http://{mesh.leaves['store'].v4}/books")
    assert (answer.status, answer.reason) == refusal, "that its file is gone lifts nothing"
    mesh.write("revocation", own("Revocation", "lost", {}), nodes=nodes)
    mesh.build()
    mesh.wait(mesh.works, "calls after the revocation revokes nobody")
    assert mesh.talk().lives()


def test_a_token_is_good_once_for_one_node_and_one_authority(mesh, tmp_path):
    token = mesh.token("n1")
    secret, _, root = token.strip().partition(".")
    wrong = f"{'A' * len(secret)}.{root}"
    foreign = f"{secret}.{'0' * len(root)}"
    for name, given in (("n2", token), ("n1", wrong), ("n1", foreign)):
        done = mesh.join(name, given, state=tmp_path / "refused", check=False)
        assert done.returncode == 1, done
        assert done.stderr.strip(), done
        assert secret not in done.stderr + done.stdout
    assert mesh.join("n1", token, state=tmp_path / "first").returncode == 0
    again = mesh.join("n1", token, state=tmp_path / "second", check=False)
    assert again.returncode == 1
    assert "token" in again.stderr
    assert not list((tmp_path / "second").rglob("joined.json"))


def test_one_id_says_on_both_nodes_who_refused(mesh):
    """n1 lets the thief through, and n2 does not."""
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    mesh.allow("thief", "store", nodes=["n1"])
    mesh.build()
    form = "%{http_code} %header{x-edgemesh-request}"
    url = f"http://{mesh.leaves['store'].v4}/books"
    status, request_id = mesh.leaves["thief"].run("curl", "-sS", "-o", "/dev/null", "-w", form, url).stdout.split()
    mesh.remove("access-thief-store", nodes=["n1"])
    mesh.build()
    assert status == "403"
    for node, who, flag, detail in (
        (n1, "the other node", "peer-refused", "no-rule"),
        (
            n2,
            "this node, for the server",
            "denied",
            "no-rule: no TrafficTarget lets this source reach this destination",
        ),
    ):
        words = ("explain", "--request", request_id, "--socket", node.socket)
        done = node.edgemesh(*words, "-o", "json", check=False)
        assert done.returncode == 1  # as of every call that was refused
        (said,) = json.loads(done.stdout)
        assert (said["refused_by"], said["flag"], said["detail"], said["status"]) == (who, flag, detail, 403)
        assert (said["source"], said["destination"]) == ("lab/thief", "lab/store")
        shown = node.edgemesh(*words, check=False).stdout
        assert who in shown
        assert "no-rule" in shown
