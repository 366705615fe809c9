"""links.py: what the kernel tells of this test's own namespace; across namespaces it is tested in tests/netns/test_gate.py."""

import socket

from agent.kernel import links


class Gone:
    fd = -1

    def entered(self):
        raise OSError(9, "Bad file descriptor")


def test_a_namespace_that_cannot_be_asked_has_no_wires_of_the_node():
    assert links.wires(Gone()) == ((), ())


def test_loopback_leads_nowhere():
    assert socket.if_nametoindex("lo") not in links.to_other_namespaces("lo")


def test_which_interfaces_there_are():
    lo = socket.if_nametoindex("lo")
    assert links.existing([lo, 999_999]) == {lo}
