"""inquiry.py: a server that speaks TLS, and the folder in which a kubelet keeps the tokens of pods."""

import http.server
import json
import threading

import pytest

from agent.kernel.sandbox import Sandbox
from agent.nri.boot_files import Known
from agent.nri.inquiry import Inquiry, UnansweredError
from policy.enrolment import Marks
from tests.agent.kubernetes.fake import certified

LABELS = {"openservicemesh.io/monitored-by": "osm"}
OURS = Sandbox("s1", "edgemesh-system", "edgemesh-agent-x", "u-1", labels={"app.kubernetes.io/name": "edgemesh"})
MADE = certified("127.0.0.1")


class Server(http.server.ThreadingHTTPServer):
    """An API server. `asked`: path, token and connection of each request."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = MADE.server(folder).wrap_socket(self.socket, server_side=True)
        self.status, self.body, self.asked, self.keeps = 200, {"metadata": {"labels": LABELS}}, [], True

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers["Authorization"], self.client_address))
        body = server.body if isinstance(server.body, bytes) else json.dumps(server.body).encode()
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = not server.keeps  # without saying so

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def known(server):
    return Known(server=f"127.0.0.1:{server.server_port}")


@pytest.fixture
def inquiry(tmp_path):
    made = Inquiry(tmp_path / "pods")
    yield made
    made._close()


def token(tmp_path, uid="u-1", word="t1", root=MADE.root):
    folder = tmp_path / "pods" / uid / "volumes" / "kubernetes.io~projected" / "kube-api-access-abcde"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(word)
    (folder / "ca.crt").write_bytes(root)
    (folder / "namespace").write_text("edgemesh-system")


def test_it_asks_as_our_own_pod_whose_token_the_kubelet_keeps(inquiry, server, known, tmp_path):
    with pytest.raises(UnansweredError, match="no token of a pod of ours"):
        inquiry.ask(known, "shop")
    inquiry.met(OURS)
    with pytest.raises(UnansweredError, match="no token of a pod of ours"):
        inquiry.ask(known, "shop")
    token(tmp_path)
    assert inquiry.ask(known, "shop") == Marks(LABELS, {})
    token(tmp_path, word="t2")
    assert inquiry.ask(known, "a/b") == Marks(LABELS, {})
    (one, two) = server.asked
    assert one[:2] == ("/api/v1/namespaces/shop", "Bearer t1")
    assert two[:2] == ("/api/v1/namespaces/a%2Fb", "Bearer t2"), "the token is read each time"
    assert one[2] == two[2], "the connection is kept"
    inquiry.gone("s1")
    with pytest.raises(UnansweredError):
        inquiry.ask(known, "shop")


def test_a_connection_that_the_server_has_closed_is_made_again(inquiry, server, known, tmp_path):
    inquiry.met(OURS)
    token(tmp_path)
    server.keeps = False
    for _ in range(3):
        assert inquiry.ask(known, "shop") == Marks(LABELS, {})
    assert len({connection for _, _, connection in server.asked}) == 3


def test_it_asks_with_the_daemons_kubeconfig(inquiry, server, tmp_path):
    (tmp_path / "root").write_bytes(MADE.root)
    config = {
        "current-context": "two",
        "contexts": [{"name": name, "context": {"cluster": name, "user": "me"}} for name in ("one", "two")],
        "clusters": [
            {"name": "one", "cluster": {"server": f"https://127.0.0.1:{server.server_port}", "certificate-authority": "root"}},
            {"name": "two", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "root"}},
        ],
        "users": [{"name": "me", "user": {"token": "mine"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(json.dumps(config))
    assert inquiry.ask(Known(kubeconfig=(str(tmp_path / "config"),), context="one"), "shop") == Marks(LABELS, {})
    assert server.asked[0][1] == "Bearer mine"
    with pytest.raises(UnansweredError, match="refused"):
        inquiry.ask(Known(kubeconfig=(str(tmp_path / "config"),)), "shop")


def test_a_namespace_that_is_not_there(inquiry, server, known, tmp_path):
    inquiry.met(OURS)
    token(tmp_path)
    server.status = 404
    assert inquiry.ask(known, "shop") is None


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (403, {}, "answers 403"),
        (500, {}, "answers 500"),
        (200, b"<html>", "Expecting value"),
        (200, [], "no object"),
        (200, {"metadata": {"labels": ["x"]}}, "labels are none"),
        (200, b" " * (1 << 20) + b"{}", "more than"),
    ],
)
def test_what_is_no_answer_says_nothing(inquiry, server, known, tmp_path, status, body, why):
    inquiry.met(OURS)
    token(tmp_path)
    server.status, server.body = status, body
    with pytest.raises(UnansweredError, match=why):
        inquiry.ask(known, "shop")
    server.status, server.body = 200, {"metadata": {}}
    assert inquiry.ask(known, "shop") == Marks()


def test_another_server_is_not_believed_and_does_not_see_the_token(inquiry, server, known, tmp_path):
    inquiry.met(OURS)
    token(tmp_path, root=certified("127.0.0.1").root)
    with pytest.raises(UnansweredError, match="certificate verify failed"):
        inquiry.ask(known, "shop")
    assert server.asked == []


@pytest.mark.parametrize(
    "other",
    [
        Sandbox("s1", "shop", "p", "u-1", labels={"app.kubernetes.io/name": "edgemesh"}),
        Sandbox("s1", "edgemesh-system", "p", "u-1", labels={}),
        Sandbox("s1", "edgemesh-system", "p", "u-1"),
        Sandbox("s1", "edgemesh-system", "p", "../u-1", labels={"app.kubernetes.io/name": "edgemesh"}),
    ],
)
def test_the_token_of_another_pod_is_not_used(inquiry, server, known, tmp_path, other):
    inquiry.met(other)
    token(tmp_path)
    with pytest.raises(UnansweredError):
        inquiry.ask(known, "shop")
    assert server.asked == []
