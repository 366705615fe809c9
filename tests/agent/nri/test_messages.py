"""messages.py: events of NRI as containerd 2.4 sends them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.nri import messages
from agent.nri.protobuf import MalformedError, field, fields


def pairs(at, found):
    return b"".join(field(at, field(1, key) + field(2, value)) for key, value in found.items())


def pod(uid="s1", name="till", namespace="shop", netns="/var/run/netns/cni-1", labels=None, annotations=None):
    """The bytes of a PodSandbox."""
    linux = field(5, field(1, "ipc") + field(2, "/proc/7/ns/ipc"))
    if netns:
        linux += field(5, field(1, "network") + field(2, netns))
    return (
        field(1, uid)
        + field(2, name)
        + field(3, "uid-1")
        + field(4, namespace)
        + pairs(5, labels or {})
        + pairs(6, annotations or {})
        + field(7, "runc")
        + field(8, linux)
        + field(9, 4711)
        + field(10, "10.42.0.5")
    )


def test_a_sandbox():
    found = messages.sandbox(pod(labels={"app": "till"}, annotations={"a": "b"}))
    assert (found.id, found.pod, found.uid, found.netns) == ("s1", "shop/till", "uid-1", "/run/netns/cni-1")
    assert (found.labels, found.annotations, found.addresses) == ({"app": "till"}, {"a": "b"}, {"10.42.0.5"})
    assert messages.sandbox(pod(netns="")).netns == "", "in the node's own"
    assert messages.sandbox(pod()).labels == {}, "known to have none"
    with pytest.raises(MalformedError, match="without an id"):
        messages.sandbox(b"")


def test_events_also_of_older_runtimes():
    number, sandbox = messages.event("RunPodSandbox", field(1, pod()))
    assert (number, sandbox.pod) == (messages.RUN_POD_SANDBOX, "shop/till")
    number, sandbox = messages.event("StateChange", field(1, 3) + field(2, pod()))
    assert (number, sandbox.pod) == (messages.REMOVE_POD_SANDBOX, "shop/till")
    assert messages.event("StateChange", field(1, 2) + field(2, pod())) == (0, None)
    assert messages.event("CreateContainer", field(1, pod())) == (0, None)
    assert messages.event("RunPodSandbox", b"") == (0, None)


def test_the_runtime_says_how_long_it_waits():
    payload = field(2, "containerd") + field(3, "v2.4.2") + field(4, 5000) + field(5, 2000)
    assert messages.configuration(payload) == messages.Configuration("containerd", "v2.4.2", 2.0)
    assert messages.configuration(b"").limit == 2.0


def test_what_we_subscribe_to_is_not_everything():
    assert list(fields(messages.subscription())) == [(2, 0b101)]


def test_what_runs_when_we_connect_may_come_in_parts():
    payload = field(1, pod()) + field(1, pod("s2", "stock")) + field(2, b"container") + field(3, 1)
    found = messages.synchronized(payload)
    assert ([sandbox.id for sandbox in found.sandboxes], found.more) == (["s1", "s2"], True)
    assert not messages.synchronized(b"").more
    assert (messages.synchronization(True), messages.synchronization(False)) == (field(2, 1), b"")


def test_labels_without_bound_are_not_kept_but_those_that_matter_are(monkeypatch):
    monkeypatch.setattr(messages, "_LONGEST", 10)
    found = messages.sandbox(pod(annotations={"a": "x" * 5, "b": "y" * 50, "edgemesh.io/mesh": "disabled"}))
    assert found.annotations == {"a": "xxxxx", "edgemesh.io/mesh": "disabled"}


@given(st.data())
def test_a_mutated_sandbox_is_one_or_malformed(data):
    mutated = bytearray(pod(labels={"app": "till"}))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        messages.event("RunPodSandbox", field(1, bytes(mutated)))
        messages.synchronized(bytes(mutated))
        messages.configuration(bytes(mutated))
    except MalformedError:
        pass
