"""Policy holds for unmodified programs: by name, by service address, by workload address, over IPv4 and IPv6."""

import pytest


def ways(lab, family):
    store = lab.host("store")
    routes = {r["service"]: r["addresses"] for r in _services(lab)}
    address = next(a for a in routes["lab/store"] if (":" in a) == (family == "v6"))
    own = store.v6 if family == "v6" else store.v4
    return [f"[{a}]" if ":" in a else a for a in (address, own)]


def _services(lab):
    from agent.admin.client import get

    snapshot = get(lab.socket, "/snapshot")
    return [{"service": f"{s['namespace']}/{s['name']}", "addresses": s["addresses"]} for s in snapshot["services"]]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_buyer_may_and_the_thief_may_not(lab, family):
    buyer, thief = lab.host("buyer"), lab.host("thief")
    for address in ways(lab, family):
        allowed = buyer.curl(f"http://{address}/books")
        assert allowed.status == 200, (address, allowed)
        assert buyer.v6 in allowed.body or buyer.v4 in allowed.body, f"the store sees who called: {allowed}"
        refused = thief.curl(f"http://{address}/books")
        assert (refused.status, refused.reason) == (403, "no-rule"), (address, refused)
        assert buyer.curl(f"http://{address}/books", "-X", "DELETE").reason == "no-http-match"


def test_the_source_address_is_the_callers(lab):
    buyer, store = lab.host("buyer"), lab.host("store")
    assert buyer.v4 in buyer.curl(f"http://{store.v4}/").body
    assert buyer.v6 in buyer.curl(f"http://[{store.v6}]/").body


def test_a_namespace_without_capture_is_refused(lab):
    outsider, store = lab.host("outsider"), lab.host("store")
    for url in (f"http://{store.v4}/", f"http://[{store.v6}]/"):
        answer = outsider.curl(url)
        assert (answer.status, answer.reason) == (403, "no-identity"), answer
    assert not _talk(outsider, store.v4, 7)


MARKED = """
    import socket, sys
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    s = socket.socket(family); s.settimeout(3)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(sys.argv[3], 0))
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.sendall(b"GET /books HTTP/1.1\\r\\nhost: store\\r\\n\\r\\n")
        print(s.recv(4096).split(b"\\r\\n")[0].decode())
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("mark", ["0x539", "0x6d6e0001", "0x6d6e0002"])
def test_a_caller_that_sets_marks_is_refused(lab, mark):
    thief, store = lab.host("thief"), lab.host("store")
    for address in (store.v4, store.v6):
        said = thief.python(MARKED, address, 80, mark)
        assert said and "200" not in said, said
    assert "200" in lab.host("buyer").python(MARKED, store.v4, 80, "0"), "the probe itself works"


TALK = """
    import socket, sys
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=4)
        said = b""
        if sys.argv[3]:
            s.sendall(sys.argv[3].encode()); s.shutdown(socket.SHUT_WR)
            while data := s.recv(4096): said += data
        else:
            said = s.recv(4096)
        print(said.decode().strip())
    except OSError as error:
        print("", file=sys.stderr)
"""


def _talk(host, address, port, words="hello"):
    return host.python(TALK, address, port, words)


def test_opaque_tcp_with_half_close(lab):
    store = lab.host("store")
    for address in (store.v4, store.v6):
        assert _talk(lab.host("buyer"), address, 7).splitlines() == ["echo hellobye"]
        assert not _talk(lab.host("thief"), address, 7)


def test_a_server_that_speaks_first_is_not_kept_waiting(lab):
    store = lab.host("store")
    assert _talk(lab.host("buyer"), store.v4, 3306, "") == "greetings"
    assert not _talk(lab.host("thief"), store.v4, 3306, "")


def test_a_port_that_nobody_serves_fails_at_once(lab):
    import time

    store = lab.host("store")
    for address in (store.v4, f"[{store.v6}]"):
        began = time.monotonic()
        answer = lab.host("buyer").curl(f"http://{address}:81/")
        assert answer.status == 503, answer
        assert time.monotonic() - began < 3, "the server's reset came back, and no timeout was waited for"


@pytest.mark.parametrize("nameserver", ["192.0.2.1", "127.0.0.53"])
def test_by_name_as_programs_do_it(lab, nameserver):
    for name in ("store", "store.lab.svc.cluster.local"):
        answer = lab.host("buyer").curl_by_name(f"http://{name}/", nameserver)
        assert answer.body.startswith("store saw"), answer
        assert lab.host("thief").curl_by_name(f"http://{name}/", nameserver).status == 403


def test_two_callers_are_seen_as_themselves(lab):
    """One after the other and again, over connections that are kept: none is lent to the other."""
    from tests.netns.conftest import GET

    buyer, thief, store = lab.host("buyer"), lab.host("thief"), lab.host("store")
    lab.allow("thief", "store", GET)
    lab.build()
    try:
        for caller in (buyer, thief) * 3:
            assert f":{caller.v4} " in caller.curl(f"http://{store.v4}/").body
            assert f" {caller.v6} " in caller.curl(f"http://[{store.v6}]/").body
    finally:
        lab.forbid("thief", "store")
        lab.build()


def test_a_real_database_that_speaks_first(lab):
    from agent.demo.database import installed
    from tests.netns.conftest import TCP, named, target, tcp_route

    database = installed()
    if database is None:
        pytest.skip("needs mariadb-server")
    server = lab.host("database")
    lab.start(["ip", "netns", "exec", server.name, *database.command(lab.folder / "mysql")])
    lab.workload(server)
    lab.service(
        "database", [{"name": "tcp-db", "port": 3306}]
    )  # declared, so that a refusal waits for nobody's first bytes
    lab.write("route-db", tcp_route("db", 3306))
    lab.write(
        "target-buyer-database",
        target("buyer", "database", {**TCP, "name": "db"}) | {"metadata": named("buyer-database")},
    )
    lab.build()

    def ask(host, address):
        words = (
            "--no-defaults",
            "--user=root",
            "--connect-timeout=4",
            f"--host={address}",
            "--batch",
            "--skip-column-names",
        )
        return host.run(database.client, *words, "--execute=SELECT 6 * 7, USER()", check=False).stdout.split()

    lab.wait(lambda: ask(lab.host("buyer"), server.v4), "the database is up")
    for address in (server.v4, server.v6):
        assert ask(lab.host("buyer"), address)[0] == "42"
        assert not ask(lab.host("thief"), address)
        assert not ask(lab.host("outsider"), address)


def test_own_ports_are_refused(lab):
    buyer, store = lab.host("buyer"), lab.host("store")
    for address, port in (("127.0.0.1", 15001), (store.v4, 15006), (store.v4, 15001), (buyer.v4, 15006)):
        assert not _talk(buyer, address, port), (address, port)
        assert not _talk(lab.host("outsider"), store.v4, port)


def test_permissive_mode_admits_identities_and_not_strangers(lab):
    from tests.netns.conftest import mesh_config

    thief, outsider, store = lab.host("thief"), lab.host("outsider"), lab.host("store")
    lab.write("mesh", mesh_config(enableEgress=True, enablePermissiveTrafficPolicyMode=True))
    try:
        lab.wait(lambda: thief.curl(f"http://{store.v4}/").status == 200, "permissive mode")
        assert outsider.curl(f"http://{store.v4}/").reason == "no-identity"
    finally:
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.wait(lambda: thief.curl(f"http://{store.v4}/").status == 403, "SMI mode")


def test_the_fifty_first_call_after_fifty_edits(lab):
    from tests.netns.conftest import GET

    thief, store = lab.host("thief"), lab.host("store")
    for number in range(50):
        if number % 2:
            lab.forbid("thief", "store")
        else:
            lab.allow("thief", "store", GET)
        lab.build() if number % 10 == 0 else None
    lab.build()
    assert thief.curl(f"http://{store.v4}/").reason == "no-rule"
    lab.allow("thief", "store", GET)
    lab.build()
    assert thief.curl(f"http://{store.v4}/").status == 200
    lab.forbid("thief", "store")
    lab.build()
    assert thief.curl(f"http://{store.v4}/").reason == "no-rule"


LINGER = """
    import socket, sys, time
    s = socket.create_connection((sys.argv[1], 7), timeout=5)
    s.sendall(b"x"); s.recv(100); print("open", flush=True)
    s.settimeout(5)
    try:
        print("cut" if s.recv(100) == b"" else "data", flush=True)
    except ConnectionResetError:
        print("cut", flush=True)
    except TimeoutError:
        print("still open", flush=True)
"""


def test_a_change_cuts_what_it_forbids_within_a_second(lab):
    import time

    from tests.netns.conftest import TCP, named, target

    buyer, store = lab.host("buyer"), lab.host("store")
    process = buyer.start(LINGER, store.v4)
    path = lab.config / "target-buyer-store-tcp.yaml"
    began = time.monotonic()
    path.unlink()
    try:
        assert process.stdout.readline().strip() == b"cut"
        assert time.monotonic() - began < 1.0
    finally:
        lab.write("target-buyer-store-tcp", target("buyer", "store", TCP) | {"metadata": named("buyer-store-tcp")})
        lab.build()
