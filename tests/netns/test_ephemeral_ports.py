"""Our connections to a server start in its namespace: they do not use up the ephemeral ports that it has."""

import pytest

from tests.netns.conftest import TCP, Lab, mesh_config, target, tcp_route

# Short connections, one after another, that the client ends: TIME_WAIT is on its side.
SHORT_CALLS = """
    import collections, socket, sys
    found = collections.Counter()
    for _ in range(int(sys.argv[3])):
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as s:
                s.sendall(b"ping\\n")
                found["answered" if s.recv(100).endswith(b"ping\\n") else "closed"] += 1
        except OSError as error:
            found[type(error).__name__] += 1
    print(*(f"{count} {what}" for what, count in sorted(found.items())))
"""


@pytest.fixture(scope="module", params=[True, False], ids=["native", "python"])
def lab(tmp_path_factory, request):
    lab = Lab(tmp_path_factory.mktemp("ports"), "emep-", 86)
    lab.settings = {"nativeLane": request.param}
    try:
        buyer, store = lab.host("buyer"), lab.host("store")
        lab.tcp(store, 7)
        for host in (buyer, store):
            lab.workload(host)
        lab.service("store", [{"name": "tcp-echo", "port": 7}])
        lab.write("routes", tcp_route("any", 7))
        lab.write("target", target("buyer", "store", TCP))
        lab.write("mesh", mesh_config(enableEgress=True))
        yield lab.up()
    finally:
        lab.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_more_short_calls_than_the_server_has_ephemeral_ports(lab, family):
    buyer, store = lab.host("buyer"), lab.host("store")
    store.run(
        "sysctl",
        "-qw",
        "net.ipv4.ip_local_port_range=40000 40099",
        "net.ipv4.ip_local_reserved_ports=40007,40050-40054",
    )
    assert buyer.python(SHORT_CALLS, getattr(store, family), 7, 400) == "400 answered"
    ours = {
        int(line.split()[3].rpartition(":")[2])
        for line in store.run("ss", "-tanH", "state", "all", "dport", "=", ":7").stdout.splitlines()
    }
    assert ours, "our side is in TIME_WAIT"
    assert ours <= set(range(40000, 40100)) - {40007, *range(40050, 40055)}, (
        "of the server's range, and none that it keeps for itself"
    )
