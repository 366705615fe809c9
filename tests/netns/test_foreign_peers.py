"""Programs that nobody here wrote at the other end of a tunnel: Node.js, nghttp, h2load and curl call our door; nghttpx takes our calls.

In CI none of these may be missing: nghttp2-client, nghttp2-proxy and nodejs of Debian. curl is skipped where it is older than 8.1.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import time

import pytest

from agent.admin.client import get
from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.state import AuthorityState
from tests.netns.conftest import TCP_SERVER, own, sh
from tests.netns.two_nodes import WEB, mesh

__all__ = ("mesh",)  # a fixture

DOOR = 15008


def needs(program):
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} may not be missing in CI")
        pytest.skip(f"no {program}")


class Papers:
    """Certificates as files, as foreign programs want them."""

    def __init__(self, mesh, folder):
        self.mesh, self.folder = mesh, folder
        bundle = json.loads((mesh.nodes["n1"].state / "identity" / "bundle.json").read_text())["content"]
        self.roots = self._file("roots.pem", "\n".join(bundle["roots"]))

    def of(self, name):
        """The certificate and key of a workload, by the mesh's own authority."""
        holdings = AuthorityState(self.mesh.nodes["hub"].state / "authority", time.time)
        spiffe, key = f"spiffe://cluster.local/ns/lab/sa/{name}", csr.new_key()
        with holdings.held():
            request = ca.read_csr(csr.request(key, spiffe))
            chain = ca.sign(
                holdings.issuer, request, spiffe, "n1", 3600.0, time.time(), ca.serial(secrets.token_bytes(16))
            )
        return self._file(f"{name}.crt", chain), self._file(f"{name}.key", key.decode())

    def _file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)


@pytest.fixture(scope="module")
def papers(mesh, tmp_path_factory):
    return Papers(mesh, tmp_path_factory.mktemp("papers"))


# Node.js calls

NODE = """
const fs = require('fs'), http2 = require('http2');
const [door, ca, cert, key, calls] = process.argv.slice(1);
const options = {ca: fs.readFileSync(ca), checkServerIdentity: () => undefined};
if (cert) Object.assign(options, {cert: fs.readFileSync(cert), key: fs.readFileSync(key)});
const session = http2.connect('https://' + door, options);
const heard = [];
const end = (error) => {
  const peer = session.socket && session.socket.getPeerCertificate ? session.socket.getPeerCertificate().subjectaltname : '';
  console.log(JSON.stringify({heard, peer, error: error ? error.code : ''}));
  process.exit();
};
session.on('error', end);
const call = ([headers, body]) => new Promise((done) => {
  const stream = session.request(headers, {endStream: body === null});
  const one = {status: 0, reason: '', size: 0, last: ''};
  stream.on('response', (h) => { one.status = h[':status']; one.reason = h['x-edgemesh-reason']; });
  stream.on('data', (data) => { one.size += data.length; one.last = (one.last + data).slice(-1000); });
  stream.on('error', (error) => { one.error = error.code; });
  stream.on('close', () => { heard.push(one); done(); });
  if (body !== null) stream.end(typeof body === 'number' ? Buffer.alloc(body, 'x') : body);
});
session.on('connect', async () => {
  for (const one of JSON.parse(calls)) await call(one);
  end();
});
"""


def connect(authority):
    return {":method": "CONNECT", ":authority": authority}


@pytest.fixture
def node_calls(mesh, papers):
    needs("node")

    def calls(who, door, *asked):
        pair = papers.of(who) if who else ("", "")
        done = mesh.leaves["stranger"].run(
            "node", "-e", NODE, f"{door}:{DOOR}", papers.roots, *pair, json.dumps(asked), timeout=30
        )
        return json.loads(done.stdout)

    return calls


@pytest.mark.parametrize("door", ["workload", "node"])
def test_node_js_opens_tunnels(mesh, node_calls, door):
    store, n2 = mesh.leaves["store"].v4, mesh.nodes["n2"].v4
    get = "GET /books HTTP/1.1\r\nhost: store\r\nconnection: close\r\n\r\n"
    found = node_calls(
        "buyer",
        store if door == "workload" else n2,
        [connect(f"{store}:7"), "hello"],
        [connect(f"{store}:7"), 3_000_000],
        [connect(f"{store}:80"), get],
        [connect(f"{store}:80"), get.replace("books", "admin")],
    )
    identity = "ns/lab/sa/store" if door == "workload" else f"node/{mesh.nodes['n2'].name}"
    assert found["peer"] == f"URI:spiffe://cluster.local/{identity}"
    hello, much, books, admin = found["heard"]
    assert (hello["status"], much["status"], hello["last"]) == (200, 200, "echo hellobye\n")
    assert much["size"] > 3_000_000
    assert much["last"].endswith("xbye\n")
    assert books["last"].startswith("HTTP/1.1 200"), books
    assert "store saw" in books["last"]
    assert admin["last"].startswith("HTTP/1.1 403"), admin


def test_node_js_is_told_why_it_gets_no_tunnel(mesh, node_calls):
    store, buyer = mesh.leaves["store"].v4, mesh.leaves["buyer"].v4
    found = node_calls(
        "buyer",
        store,
        [connect(f"{buyer}:7"), None],
        [connect("store.lab:7"), None],
        [connect(f"{store}:{DOOR}"), None],
        [{":method": "GET", ":path": "/books"}, None],
        [connect(f"{store}:9"), None],
        [connect(f"{store}:7"), "still here"],
    )
    assert [(one["status"], one["reason"]) for one in found["heard"][:-1]] == [
        (400, "bad-authority"),
        (400, "bad-authority"),
        (400, "own-port"),
        (400, "not-connect"),
        (503, "connect-failed"),  # nobody listens there
    ]
    assert found["heard"][-1]["last"] == "echo still herebye\n"
    (refused,) = node_calls("thief", store, [connect(f"{store}:7"), "x"])["heard"]
    assert (refused["status"], refused["reason"]) == (401, "no-rule")
    (unknown,) = node_calls("buyer", mesh.nodes["n2"].v4, [connect(f"{buyer}:7"), None])["heard"]
    assert (unknown["status"], unknown["reason"]) == (503, "unknown-workload")


def test_node_js_without_a_certificate_is_nobody(mesh, node_calls):
    store = mesh.leaves["store"].v4
    found = node_calls("", store, [connect(f"{store}:7"), None])
    assert not [one for one in found["heard"] if one["status"]]
    assert "TLSV13_ALERT_CERTIFICATE_REQUIRED" in found["error"] + json.dumps(found["heard"]), found


# nghttp, h2load and curl call


def test_nghttp_asks_for_what_a_door_does_not_do(mesh, papers):
    """Many requests at once on one connection that are not CONNECT."""
    needs("nghttp")
    certificate, key = papers.of("buyer")
    url = f"https://{mesh.leaves['store'].v4}:{DOOR}/books"
    words = ("-v", "-y", "-m", "50", "-t", "10", f"--cert={certificate}", f"--key={key}", url)
    shown = mesh.leaves["stranger"].run("nghttp", *words, check=False).stdout
    assert shown.count(":status: 400") == shown.count("x-edgemesh-reason: not-connect") == 50, shown[-2000:]
    assert mesh.works()


def test_h2load_without_a_certificate_leaves_no_trace(mesh):
    """h2load has no option for one: all it can do is knock."""
    needs("h2load")
    words = ("-n", "400", "-c", "40", "-m", "10", "-T", "5", f"https://{mesh.leaves['store'].v4}:{DOOR}/")
    shown = mesh.leaves["stranger"].run("h2load", *words, check=False, timeout=40).stdout
    assert re.search(r" 0 succeeded, 400 failed", shown), shown
    assert mesh.works()
    mesh.wait(lambda: at_rest(mesh), "nothing of it is left")


def test_h2load_through_a_proxy_that_has_a_certificate(mesh, papers):
    """nghttpx speaks for it: its connections to our door carry as many streams as we allow."""
    needs("h2load")
    certificate, key = papers.of("buyer")
    door = f"--backend={mesh.leaves['store'].v4},{DOOR};;proto=h2;tls"
    more = ("--insecure", f"--client-cert-file={certificate}", f"--client-private-key-file={key}")
    with nghttpx(mesh, "--frontend=127.0.0.1,3000;no-tls", door, *more):
        words = ("-n", "2000", "-c", "20", "-m", "20", "http://127.0.0.1:3000/books")
        shown = mesh.leaves["stranger"].run("h2load", *words, timeout=60).stdout
    assert "status codes: 0 2xx, 0 3xx, 2000 4xx, 0 5xx" in shown, shown
    assert mesh.works()
    mesh.wait(lambda: at_rest(mesh), "nothing of it is left")


def test_curl_calls_through_a_tunnel(mesh, papers):
    if "--proxy-http2" not in sh("curl", "--help", "all").stdout:
        pytest.skip("a curl older than 8.1 has no --proxy-http2")
    store = mesh.leaves["store"].v4
    certificate, key = papers.of("buyer")
    words = (
        "--proxy-http2",
        "-p",
        "-x",
        f"https://{store}:{DOOR}",
        "--proxy-insecure",
        "--proxy-cert",
        certificate,
        "--proxy-key",
        key,
    )
    answer = mesh.leaves["stranger"].curl(f"http://{store}/books", *words)
    assert (answer.status, answer.body[:9]) == (200, "store saw"), answer


def at_rest(mesh):
    """No stranger's connection is left at n2."""
    address = mesh.leaves["stranger"].v4
    return not [
        one for one in get(mesh.nodes["n2"].socket, "/connections") if one["source_address"].startswith(address)
    ]


# nghttpx takes our calls

# CONNECT of HTTP/1.1, which is what nghttpx makes of ours.
FORWARDER = """
    import socket, threading
    def copy(a, b):
        while data := a.recv(65536): b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    def serve(c):
        head = b""
        while not head.endswith(b"\\r\\n\\r\\n"): head += c.recv(1)
        host, port = head.split()[1].decode().rsplit(":", 1)
        s = socket.create_connection((host, int(port)))
        c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        threading.Thread(target=copy, args=(s, c), daemon=True).start()
        copy(c, s)
    listener = socket.create_server(("127.0.0.1", 3128))
    print("ready")
    while True: threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


@contextlib.contextmanager
def nghttpx(mesh, *words):
    """It runs beside the stranger until the block ends."""
    needs("nghttpx")
    stranger = mesh.leaves["stranger"]
    common = (
        "--conf=/dev/null",
        "--workers=1",
        "--single-process",
        "--errorlog-file=/dev/stderr",
        "--accesslog-file=/dev/null",
    )
    process = mesh.start(["ip", "netns", "exec", stranger.name, "nghttpx", *common, *words])
    port = next(word.partition(",")[2].partition(";")[0] for word in words if word.startswith("--frontend"))
    try:
        mesh.wait(lambda: f":{port} " in stranger.run("ss", "-tln").stdout, "nghttpx listens")
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def foreign(mesh):
    """A workload that runs on no node of ours: it is dialled at its own door."""
    needs("nghttpx")
    stranger = mesh.leaves["stranger"]
    stranger.start(FORWARDER)
    stranger.start(WEB, "foreign", 8080)
    stranger.start(TCP_SERVER, "foreign", 7, "")
    spec = {"serviceAccount": "foreign", "labels": {"app": "foreign"}, "addresses": [stranger.v4], "node": "elsewhere"}
    mesh.write("workload-foreign", own("Workload", "foreign", spec))
    mesh.service("foreign", [{"name": "http", "port": 8080}, {"name": "tcp-echo", "port": 7}])
    mesh.allow("buyer", "foreign")
    mesh.build()
    return stranger


@contextlib.contextmanager
def forward_proxy(mesh, papers, name):
    certificate, key = papers.of(name)
    tls = ("--tls-min-proto-version=TLSv1.3", "--verify-client", f"--verify-client-cacert={papers.roots}")
    with nghttpx(
        mesh, f"--frontend=0.0.0.0,{DOOR}", "--backend=127.0.0.1,3128", "--http2-proxy", *tls, key, certificate
    ):
        yield


def test_nghttpx_takes_our_tunnels(mesh, papers, foreign):
    with forward_proxy(mesh, papers, "foreign"):
        for path in ("/books", "/books/2"):
            answer = mesh.leaves["buyer"].curl(f"http://{foreign.v4}:8080{path}")
            assert (answer.status, answer.body.split()[::3]) == (200, ["foreign", path]), answer
        answer = mesh.leaves["buyer"].curl(f"http://{foreign.v4}:8080/admin")
        assert (answer.status, answer.reason) == (403, "no-http-match")
        talk = mesh.talk(foreign)
        assert talk.lives()
    assert not talk.lives()
    first = next(r for r in mesh.nodes["n1"].records() if r["destination"] == "lab/foreign" and r["kind"] == "request")
    assert first["tls_peer"] == "spiffe://cluster.local/ns/lab/sa/foreign"


def test_nghttpx_with_another_identity_is_not_believed(mesh, papers, foreign):
    with forward_proxy(mesh, papers, "thief"):
        answer = mesh.leaves["buyer"].curl(f"http://{foreign.v4}:8080/books")
    assert (answer.status, answer.reason) == (502, "peer-unexpected"), answer
