"""What leaves the mesh by an Egress: OSM's documented manifests as they are, and callers who say one thing and do another."""

from __future__ import annotations

import contextlib
import socket
import ssl

import dns.message
import dns.rrset
import pytest
import trio

from nodeproxy import ties
from nodeproxy.dns import resolver
from tests.journeys import bookstore
from tests.journeys.stand_ins import bound, echo, greets

# https://docs.openservicemesh.io/docs/demos/egress_policy/, as it stands there
HTTPBIN_80 = """
---
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: httpbin-80
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  hosts:
  - httpbin.org
  ports:
  - number: 80
    protocol: http
"""
HTTPBIN_443 = HTTPBIN_80.replace("httpbin-80", "httpbin-443").replace("80", "443").replace("http\n", "https\n")
TCP_443 = """
---
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata:
  name: tcp-443
  namespace: curl
spec:
  sources:
  - kind: ServiceAccount
    name: curl
    namespace: curl
  ports:
  - number: 443
    protocol: tcp
"""
ROUTES = """
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata:
  name: egress-http-route
  namespace: curl
spec:
  matches:
  - name: get
    pathRegex: /get
"""
WITH_ROUTES = f"""{HTTPBIN_80}  matches:
  - apiGroup: specs.smi-spec.io/v1alpha4
    kind: HTTPRouteGroup
    name: egress-http-route
"""
MYSQL_3306 = """
---
kind: Egress
apiVersion: policy.openservicemesh.io/v1alpha1
metadata: {name: mysql, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: ["%s/32"]
  ports: [{number: 3306, protocol: tcp-server-first}]
"""


@pytest.fixture(autouse=True)
def curl(monkeypatch):
    """The demo's workload, beside the bookstore's."""
    monkeypatch.setitem(bookstore.WORKLOADS, "curl", ("curl", "curl", "{app: curl}", ""))
    with contextlib.ExitStack() as closing:
        try:
            closing.enter_context(bound("127.0.0.1", socket.SOCK_STREAM, 80))
        except PermissionError:
            pytest.skip("the demo's ports are for root")
        except OSError:
            pass  # taken on this one address
        yield


class Outside:
    """Servers outside the mesh at one address, and a resolver that says which names have it."""

    def __init__(self, mesh, nursery):
        self.mesh = mesh
        self.address = mesh.stranger
        self.other = mesh.stranger.rpartition(".")[0] + ".102"  # also outside, of another name
        self.says = {"httpbin.org.": [self.address]}
        self.ttl = 60
        self.silent = False
        self.sock = trio.socket.from_stdlib_socket(bound(mesh.stranger, socket.SOCK_DGRAM))
        mesh.kernel.resolver = self.sock.getsockname()
        mesh.proxy.context.dns_trusted = lambda workload: {mesh.stranger}
        nursery.start_soon(self.resolve)
        mesh.publish(mesh=mesh.no_egress)

    async def resolve(self):
        while True:
            message, peer = await self.sock.recvfrom(4096)
            if self.silent:
                continue
            question = dns.message.from_wire(message)
            response = dns.message.make_response(question)
            name = question.question[0].name.to_text().lower()
            if name in self.says:
                response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "A", *self.says[name]))
            await self.sock.sendto(response.to_wire(), peer)

    async def ask(self, name, caller="curl"):
        with trio.socket.from_stdlib_socket(bound(self.mesh.addresses[caller], socket.SOCK_DGRAM)) as sock:
            await sock.connect(self.mesh.dns[caller])
            await sock.send(dns.message.make_query(name, "A").to_wire())
            response = dns.message.from_wire(await sock.recv(4096))
            return [record.to_text() for rrset in response.answer for record in rrset]

    async def call(self, port=80, address=None, caller="curl"):
        return await self.mesh.call(caller, address or self.address, port)

    async def get(self, path="/get", host="httpbin.org", port=80, address=None, caller="curl", **more):
        """One request on a connection of its own; its answer."""
        one = await self.call(port, address, caller)
        one.host = host
        return await one.get(path, **more)

    async def cut(self, port=80, caller="curl"):
        """Whether a connection is reset unread: no Egress names this source at all."""
        return await (await self.call(port, caller=caller)).is_over() == "reset"


@pytest.fixture
async def outside(mesh):
    async with trio.open_nursery() as nursery:
        made = Outside(mesh, nursery)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            made.sock.close()


def hello(name, *, context=None):
    """What a TLS client sends first."""
    context = context or ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


async def passes(call, data, parts=None):
    """Whether these bytes come back from an echo."""
    for part in parts or (data,):
        await call.send(part)
        await call_settles()
    return await call.read(len(data)) == data


async def call_settles():
    await trio.testing.wait_all_tasks_blocked(0.005)


async def denied(call, data):
    """How a TLS caller learns that it is refused: an alert, and the end."""
    await call.send(data)
    alert = await call.read(7)
    assert alert == bytes((0x15, 3, 3, 0, 2, 2, 49)), alert
    return await call.is_over()


# OSM's demo, step by step


async def test_http_by_host_as_the_demo_has_it(mesh, outside):
    web = mesh.web_at(outside.address, 80)
    assert await outside.cut(), "before there is a policy"
    assert mesh.records[-1].flag == "egress-denied"
    mesh.publish(egress=HTTPBIN_80)
    assert await outside.ask("httpbin.org") == [outside.address]
    answer = await outside.get()
    assert (answer.status, answer.body) == (200, "outside")
    assert mesh.records[-1].rule == "Egress curl/httpbin-80"
    ((*_, headers, _),) = web.requests
    assert b"x-forwarded-for" not in headers, "nobody outside learns the addresses of the mesh"
    answer = await outside.get(host="example.com")
    assert (answer.status, answer.reason) == (403, "egress-denied")
    assert await outside.cut(caller="buyer"), "another source"
    mesh.publish(egress="")
    assert await outside.cut()
    assert len(web.requests) == 1


async def test_https_by_server_name_as_the_demo_has_it(mesh, outside):
    mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    call = await outside.call(443)
    assert await passes(call, hello("httpbin.org"))
    await call.stream.aclose()
    await mesh.until(lambda: mesh.records and mesh.records[-1].host == "httpbin.org")
    assert (mesh.records[-1].rule, mesh.records[-1].protocol) == ("Egress curl/httpbin-443", "tls")
    assert await denied(await outside.call(443), hello("example.com")) in ("closed", "reset")
    assert mesh.records[-1].flag == "egress-denied" and "egress-host" in mesh.records[-1].detail


async def test_tcp_as_the_demo_has_it(mesh, outside):
    mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=TCP_443)
    assert await passes(await outside.call(443), b"no TLS at all")
    assert await passes(await outside.call(443), hello("any.example"))
    mesh.publish(egress="")
    assert await outside.cut(443)


async def test_routes_as_the_demo_has_them(mesh, outside):
    web = mesh.web_at(outside.address, 80)
    mesh.publish(egress=ROUTES + WITH_ROUTES)
    await outside.ask("httpbin.org")
    assert (await outside.get("/get")).status == 200
    answer = await outside.get("/status/200")
    assert answer.status == 403
    assert "egress-no-match" in answer.body
    assert [target for _, _, target, _, _ in web.requests] == ["/get"]


async def test_a_server_that_speaks_first(mesh, outside):
    mesh.serve_at(outside.address, 3306, greets)
    mesh.publish(egress=MYSQL_3306 % outside.address)
    call = await outside.call(3306)
    assert await call.read(6) == b"hello "
    assert await passes(call, b"query")
    mesh.serve_at(outside.other, 3306, greets)
    with trio.fail_after(10):
        assert await (await outside.call(3306, outside.other)).is_over() == "reset", "another address"


# what is said, and where it goes


async def test_a_host_goes_only_where_dns_said_that_it_is(mesh, outside):
    here, there = mesh.web_at(outside.address, 80), mesh.web_at(outside.other, 80)
    mesh.publish(egress=HTTPBIN_80)
    answer = await outside.get()
    assert (answer.status, "egress-untied" in answer.body) == (403, True), "nobody asked for the name"
    await outside.ask("HTTPBIN.org")
    assert (await outside.get()).status == 200
    answer = await outside.get(address=outside.other)
    assert (answer.status, "egress-untied" in answer.body) == (403, True), "Host lies about the address"
    assert (await outside.get(host="example.com")).status == 403
    outside.says["example.com."] = [outside.address]
    await outside.ask("example.com")
    assert (await outside.get(host="example.com")).status == 403, "DNS lets nothing out by itself"
    await outside.ask("httpbin.org", caller="buyer")
    assert (len(here.requests), len(there.requests)) == (1, 0)


async def test_a_server_name_goes_only_where_dns_said_that_it_is(mesh, outside):
    mesh.serve_at(outside.address, 443, echo)
    mesh.serve_at(outside.other, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    assert await passes(await outside.call(443), hello("httpbin.org"))
    await denied(await outside.call(443, outside.other), hello("httpbin.org"))
    assert "egress-untied" in mesh.records[-1].detail


async def test_what_one_workload_was_told_counts_for_no_other(mesh, outside):
    mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80 + HTTPBIN_80.replace("name: httpbin-80", "name: b").replace(
        "name: curl\n    namespace: curl", "name: bookbuyer\n    namespace: bookbuyer"))  # fmt: skip
    await outside.ask("httpbin.org")
    assert (await outside.get()).status == 200
    assert "egress-untied" in (await outside.get(caller="buyer")).body
    await outside.ask("httpbin.org", caller="buyer")
    assert (await outside.get(caller="buyer")).status == 200


async def test_a_resolver_that_the_workload_chose_proves_nothing(mesh, outside):
    web = mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80)
    mesh.proxy.context.dns_trusted = lambda workload: {"192.0.2.53"}
    assert await outside.ask("httpbin.org") == [outside.address]
    answer = await outside.get()
    assert (answer.status, web.requests) == (403, [])
    assert f"it asks {outside.address}, which is not one of them" in answer.body


async def test_an_answer_that_was_kept_ties_too_unless_it_is_older_than_the_policy(mesh, outside):
    mesh.web_at(outside.address, 80)
    await outside.ask("httpbin.org")
    mesh.publish(egress=HTTPBIN_80)
    assert (await outside.get()).status == 403
    await outside.ask("httpbin.org")
    mesh.proxy.context.ties.clear()
    assert (await outside.get()).status == 403
    says, outside.says = outside.says, {}
    assert await outside.ask("httpbin.org") == says["httpbin.org."], "from memory"
    assert (await outside.get()).status == 200


async def test_the_second_request_of_a_connection_is_judged_by_itself(mesh, outside):
    web = mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80)
    await outside.ask("httpbin.org")
    call = await outside.call()
    for _ in range(4):  # long enough for a fast path to learn
        call.host = "httpbin.org"
        assert (await call.get("/get")).status == 200
        call.host = "evil.example"
        answer = await call.get("/get")
        assert (answer.status, "egress-host" in answer.body) == (403, True)
    assert len(web.requests) == 4
    mesh.publish(egress="")
    call.host = "httpbin.org"
    assert (await call.get("/get")).status == 403


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET http://httpbin.org/get HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"200"),  # RFC 9112 section 3.2.2
        (b"GET http://evil.example/get HTTP/1.1\r\nHost: httpbin.org\r\n\r\n", b"403"),
        (b"GET /get HTTP/1.0\r\n\r\n", b"403"),
        (b"GET /get HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /get HTTP/1.1\r\nHost: httpbin.org\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET /get HTTP/1.1\r\nHost: httpbin.org:80\r\n\r\n", b"200"),
        (b"GET /get HTTP/1.1\r\nHost: httpbin.org:443\r\n\r\n", b"403"),
        (b"GET /get HTTP/1.1\r\nHost: HTTPBIN.org.\r\n\r\n", b"200"),
        (b"GET /get HTTP/1.1\r\nHost: httpbin.org.evil.example\r\n\r\n", b"403"),
        (b"CONNECT evil.example:80 HTTP/1.1\r\nHost: httpbin.org\r\n\r\n", b"403"),
    ],
)
async def test_the_forms_of_a_host(mesh, outside, head, status):
    web = mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80)
    await outside.ask("httpbin.org")
    call = await outside.call()
    await call.send(head)
    line = await call.read(12)
    assert line[9:] == status, line
    assert len(web.requests) == (status == b"200")
    for *_, headers, _ in web.requests:
        assert headers[b"host"].lower().startswith(b"httpbin.org")


async def test_http2_by_authority(mesh, outside):
    import h2.config
    import h2.connection
    import h2.events

    async def server(stream):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        await stream.send_all(http.data_to_send())
        while data := await stream.receive_some(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    http.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            await stream.send_all(http.data_to_send())

    mesh.serve_at(outside.address, 80, server)
    mesh.publish(egress=HTTPBIN_80)
    await outside.ask("httpbin.org")
    call = await outside.call()
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()

    async def get(stream_id, host):
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/get"), (":authority", host)]
        http.send_headers(stream_id, fields, end_stream=True)
        await call.send(http.data_to_send())
        while True:
            for event in http.receive_data(await call.stream.receive_some(65536)):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream_id:
                    return dict(event.headers)[":status"]
            await call.send(http.data_to_send())

    with trio.fail_after(20):
        for number in range(0, 12, 4):
            assert await get(number + 1, "httpbin.org") == "200"
            assert await get(number + 3, "evil.example") == "403"


# TLS that hides, or comes in pieces


def in_records(data, size):
    """The same ClientHello in records of `size` bytes."""
    body = data[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


async def test_a_client_hello_in_segments_and_records(mesh, outside):
    mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    whole = hello("httpbin.org")
    assert await passes(await outside.call(443), whole, [whole[:1], whole[1:4], whole[4:100], whole[100:]])
    parts = in_records(whole, 40)
    assert await passes(await outside.call(443), parts, [parts[:50], parts[50:]])
    lies = in_records(hello("evil.example"), 40)
    await denied(await outside.call(443), lies)


def without_name():
    return hello(None)


def with_ech(name):
    """A ClientHello with an encrypted_client_hello extension (here of no meaning; a browser's may have one)."""
    data = bytearray(hello(name))
    extension = (0xFE0D).to_bytes(2) + (5).to_bytes(2) + b"\0\0\0\0\0"
    body = bytearray(data[9:])
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    body[at : at + 2] = (int.from_bytes(body[at : at + 2]) + len(extension)).to_bytes(2)
    body += extension
    message = b"\x01" + len(body).to_bytes(3) + bytes(body)
    return bytes(data[:3]) + len(message).to_bytes(2) + message


@pytest.mark.parametrize(
    ("data", "why"), [(without_name, "TLS without a server name"), (lambda: with_ech("httpbin.org"), "ECH")]
)
async def test_a_server_name_that_cannot_be_read(mesh, outside, data, why):
    served = mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    await denied(await outside.call(443), data())
    assert "egress-no-name" in mesh.records[-1].detail and why in mesh.records[-1].detail
    mesh.publish(egress=HTTPBIN_443.replace("hosts:\n  - httpbin.org", f"ipAddresses:\n  - {outside.address}/32"))
    assert await passes(await outside.call(443), data()), "where the address decides, the name does not matter"
    assert len(served.peers) == 1


async def test_what_is_no_tls_does_not_go_out_by_https_nor_tls_by_http(mesh, outside, monkeypatch):
    mesh.limit(detect_timeout=0.2)
    raw = mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    assert (await outside.get(port=443)).status == 403
    call = await outside.call(443)
    await call.send(b"\x16\x03\x01\xff\xff\x01nonsense")
    assert await call.is_over() == "reset"
    call = await outside.call(443)
    assert await call.is_over() == "reset", "silence"
    mesh.publish(egress=HTTPBIN_80.replace("80", "443"))
    await denied(await outside.call(443), hello("httpbin.org"))
    assert raw.peers == []


async def test_what_a_new_policy_forbids_is_cut(mesh, outside):
    mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_443)
    await outside.ask("httpbin.org")
    call = await outside.call(443)
    assert await passes(call, hello("httpbin.org"))
    assert mesh.publish(egress=HTTPBIN_443 + TCP_443) == 0
    assert mesh.publish(egress=HTTPBIN_443) == 0
    assert mesh.publish(egress=HTTPBIN_443.replace("httpbin.org", "example.com")) == 1
    assert await call.is_over() == "reset"


async def test_a_connection_outlives_what_dns_said_and_a_new_one_does_not(mesh, outside, monkeypatch):
    monkeypatch.setattr(ties, "GRACE", 0.0)
    mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80)
    outside.ttl = 1
    await outside.ask("httpbin.org")
    call = await outside.call()
    call.host = "httpbin.org"
    assert (await call.get("/get")).status == 200
    outside.says["httpbin.org."] = [outside.other]  # it moved
    await trio.sleep(1.1)
    assert (await call.get("/get")).status == 200
    assert "egress-untied" in (await outside.get()).body


async def test_of_a_name_that_was_asked_for_long_ago_dns_is_asked_again(mesh, outside, monkeypatch):
    """Many programs ask only when they begin; after a restart of the daemon nothing is known of that."""
    monkeypatch.setattr(resolver, "PORT", outside.sock.getsockname()[1])
    web = mesh.web_at(outside.address, 80)
    mesh.serve_at(outside.address, 443, echo)
    mesh.publish(egress=HTTPBIN_80 + HTTPBIN_443)
    assert mesh.proxy.context.ties == {}
    assert (await outside.get()).status == 200
    mesh.proxy.context.ties.clear()
    assert await passes(await outside.call(443), hello("httpbin.org"))
    mesh.proxy.context.ties.clear()
    outside.says["httpbin.org."] = [outside.other]
    mesh.proxy.houses["curl/curl"].resolver._upstream.cache._entries.clear()  # its TTL is over
    answer = await outside.get()
    assert (answer.status, "egress-untied" in answer.body) == (403, True)
    await denied(await outside.call(443), hello("httpbin.org"))
    assert (await outside.get(host="evil.example")).status == 403
    assert len(web.requests) == 1


async def test_a_resolver_that_is_silent_holds_up_a_call_for_seconds_at_most(mesh, outside, monkeypatch):
    monkeypatch.setattr(resolver, "LOOK_UP", 0.3)
    mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80)
    await outside.ask("other.example")
    outside.silent = True
    with trio.fail_after(5):
        assert "egress-untied" in (await outside.get()).body


async def test_wildcards(mesh, outside):
    mesh.web_at(outside.address, 80)
    mesh.publish(egress=HTTPBIN_80.replace("httpbin.org", '"*.httpbin.org"'))
    for name in ("a.httpbin.org", "a.b.httpbin.org", "httpbin.org", "ahttpbin.org"):
        outside.says[f"{name}."] = [outside.address]
        await outside.ask(name)
        assert (await outside.get(host=name)).status == (200 if name.startswith("a.") else 403)


BOUNDS = """
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: UpstreamTrafficSetting
metadata:
  name: httpbin-external
  namespace: curl
spec:
  host: httpbin.org
  connectionSettings:
    http:
      maxRequestsPerConnection: 2
      circuitBreaking:
        statTimeWindow: 1m
        minRequestAmount: 2
        errorAmountThreshold: 1
        degradedTimeWindow: 1m
"""
BOUNDED = (
    HTTPBIN_80
    + """
  matches:
  - apiGroup: policy.openservicemesh.io/v1alpha1
    kind: UpstreamTrafficSetting
    name: httpbin-external
"""
)


async def test_what_an_egress_names_bounds_its_calls(mesh, outside):
    web = mesh.web_at(outside.address, 80)
    web.answers["/bad"] = (500, b"")
    mesh.publish(egress=BOUNDED.replace("\n\n", "\n"), bounds=BOUNDS)
    await outside.ask("httpbin.org")
    assert [(await outside.get()).status for _ in range(3)] == [200] * 3
    assert [number for number, *_ in web.requests] == [1, 1, 2]
    assert (await outside.get("/bad")).status == 500
    answer = await outside.get()
    assert (answer.status, answer.reason, answer.body) == (409, "circuit-open", "Coming soon ...")
    assert len(web.requests) == 4
