"""revocations.py, through a snapshot: who is refused whatever the grants say."""

import pytest
from msgspec.structs import replace

from policy.model import Identity, Request, Revoked
from policy.snapshot import Snapshot
from tests.policy.test_snapshot import FAR, READ, TILL, W1


@pytest.mark.parametrize(
    ("identity", "node", "serial", "why"),
    [
        (Identity("shop", "till"), "n2", "2ab", ""),
        (Identity("shop", "till"), "n9", "2ab", "node n9 is revoked"),
        (None, "n9", "", "node n9 is revoked"),
        (Identity("shop", "thief"), "n2", "2ab", "identity shop/thief is revoked"),
        (Identity("shop", "till"), "n2", "01:AB", "certificate 1ab is revoked"),
        (None, "", "", ""),
    ],
)
def test_who_is_refused(identity, node, serial, why):
    assert FAR.refuses(identity, node, serial) == why
    assert not Snapshot("n").refuses(identity, node, serial)


def test_a_revoked_source_is_denied_in_permissive_mode_too():
    thief, honest = Identity("shop", "thief"), Identity("shop", "till")
    assert FAR.authorize(honest, TILL, 8080).allowed
    assert FAR.authorize(thief, TILL, 8080).reason == "revoked"
    assert FAR.authorize_udp(thief, TILL, 53).reason == "revoked"
    strict = Snapshot("n", workloads=(W1,), grants=(READ,), revoked=Revoked(identities=(READ.source,)))
    assert strict.authorize(READ.source, W1, 80, Request("GET", "/a", [(b"x", b"y")])).reason == "revoked"


@pytest.mark.parametrize(
    "server", [replace(TILL, service_account="thief"), replace(TILL, node="n9")], ids=["identity", "node"]
)
def test_nobody_calls_a_server_that_is_revoked(server):
    honest = Identity("shop", "till")
    assert FAR.authorize(honest, server, 8080).reason == "revoked"
    assert FAR.authorize_udp(honest, server, 53).reason == "revoked"
    opened = replace(FAR, workloads=(server,), modes={"shop": "permissive"})
    assert not opened.plain_rule("10.9.9.9", server, 8080)
    assert replace(opened, revoked=Revoked()).plain_rule("10.9.9.9", server, 8080)
