"""boot.py: what is done without a daemon. A runtime speaks over a socket pair; the kernel is in tests/netns/test_gate.py."""

import errno
import socket
import threading

import pytest
from msgspec import structs

from agent.kernel.netlink import NetlinkError
from agent.kernel.sandbox import Sandbox
from agent.nri import boot as module
from agent.nri import frames
from agent.nri.boot import Boot
from agent.nri.boot_files import BootFiles, Known
from agent.nri.frames import Reader, Request
from agent.nri.inquiry import UnansweredError
from agent.nri.protobuf import field, fields
from policy.enrolment import Marks
from tests.agent.nri.test_frames import called, framed
from tests.agent.nri.test_messages import pod

IN = {"openservicemesh.io/monitored-by": "osm"}


class Kernel:
    def __init__(self, monkeypatch):
        self.put, self.opened, self.fault, self.refuse = [], [], "", 0
        kernel = self

        class Gate:
            def __init__(self):
                self.ranges, self.fault = set(), kernel.fault

            def put(self):
                kernel.put.append(sorted(self.ranges))

            def release(self, open_node):
                assert not open_node

        class Thing:
            def __init__(self, *_):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def close(self):
                pass

        monkeypatch.setattr(module, "Gate", Gate)
        monkeypatch.setattr(module, "Netlink", Thing)
        monkeypatch.setattr(module.netns, "Namespace", Thing)
        monkeypatch.setattr(module, "wires", lambda namespace: (("eth0",), (7,)))
        monkeypatch.setattr(module.nft, "add_interfaces", self.add)
        monkeypatch.setattr(module.nft, "held", lambda *_: self.refuse == errno.EPERM)
        monkeypatch.setattr(module.nft, "interfaces", lambda *_: self.opened)

    def add(self, sock, name, of, indexes):
        if self.refuse:
            raise NetlinkError(self.refuse, "elements of known")
        self.opened += indexes


class Recorded:
    def __init__(self):
        self.found = {}

    def read(self, now=None):
        return self.found


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


class Inquiry:
    """An API server that says of Namespaces what `says` has; of no others, and nothing while it is None."""

    def __init__(self):
        self.says, self.asked, self.pods = {}, [], []

    def met(self, sandbox):
        self.pods.append(sandbox.id)

    def gone(self, sandbox_id):
        self.pods = [known for known in self.pods if known != sandbox_id]

    def ask(self, known, namespace):
        self.asked.append(namespace)
        if self.says is None:
            raise UnansweredError("it is away")
        return self.says.get(namespace)


KNOWN = Known(1, ("10.42.0.0/24",), {"shop": (IN, {}), "other": ({}, {})})


@pytest.fixture
def inquiry():
    return Inquiry()


@pytest.fixture
def boot(kernel, inquiry, tmp_path):
    """Of a node without a cluster."""
    files = BootFiles(tmp_path / "nri")
    files.save(KNOWN)
    return Boot(files, Recorded(), inquiry)


@pytest.fixture
def asking(boot):
    """Of a node in a cluster; its second thread does not run."""
    boot._files.save(structs.replace(KNOWN, server="10.43.0.1:443"))
    return boot


def test_the_gate_is_put_before_the_runtime_hears_from_us(boot, kernel):
    ours, theirs = socket.socketpair()
    with theirs:
        server = threading.Thread(target=lambda: [boot.serve(ours), ours.close()])
        server.start()
        reader, said = Reader(), []

        def hear():
            while not said:
                said.extend(reader.feed(theirs.recv(65536)))
            return said.pop(0)

        asked = hear()
        assert isinstance(asked, Request)
        assert dict(fields(asked.payload)) == {1: b"edgemesh", 2: b"05"}
        assert kernel.put == [["10.42.0.0/24"]]
        theirs.sendall(framed(frames.THEIRS, 1, 2, field(2, b"")))
        for number, (method, payload) in enumerate(
            [
                ("Configure", b""),
                ("Synchronize", field(1, pod("s0", namespace="other"))),
                ("RunPodSandbox", field(1, pod("s1", namespace="shop"))),
                ("RunPodSandbox", field(1, pod("s2", namespace="other"))),
                ("RemovePodSandbox", field(1, pod("s2", namespace="other"))),
            ]
        ):
            theirs.sendall(called(2 * number + 1, method, payload))
            assert hear().call == 2 * number + 1
        assert kernel.opened == [7, 7], "s0 and s2"
        assert boot._inquiry.pods == ["s0", "s1"]
        assert len(kernel.put) == 1
    server.join(10)
    assert not server.is_alive()


@pytest.mark.parametrize(
    ("sandbox", "opened"),
    [
        (Sandbox("s", "other", "p", netns="/n"), [7]),
        (Sandbox("s", "kube-system", "p", netns="/n"), [7]),
        (Sandbox("s", "shop", "p", netns="/n"), []),
        (Sandbox("s", "shop", "p", netns="/n", labels={"edgemesh.io/mesh": "disabled"}), [7]),
        (Sandbox("s", "never-heard-of", "p", netns="/n"), []),
        (Sandbox("s", "other", "p"), []),
    ],
)
def test_without_a_cluster_what_the_daemon_wrote_counts(boot, kernel, sandbox, opened):
    boot.judge(sandbox)
    assert kernel.opened == opened


def test_while_a_daemon_runs_the_kernel_refuses_and_that_is_no_fault(boot, kernel, capsys):
    kernel.refuse = errno.EPERM
    boot.judge(Sandbox("s", "other", "p", netns="/n"))
    assert capsys.readouterr().err == ""
    kernel.refuse = errno.ENOMEM
    boot.judge(Sandbox("s", "other", "p", netns="/n"))
    assert "pod other/p stays mute: elements of known: Cannot allocate memory" in capsys.readouterr().err


def test_the_ranges_of_a_first_pod_are_put_when_it_begins(boot, kernel):
    boot.close()
    boot._sandboxes.found = {"s": Sandbox("s", "shop", "p", networks=frozenset(["10.43.0.0/24"]))}
    boot.close()
    boot.close()
    assert kernel.put == [["10.42.0.0/24"], ["10.42.0.0/24", "10.43.0.0/24"]]


def test_a_gate_that_cannot_be_put_is_told(boot, kernel, capsys):
    kernel.fault = "new pods cannot be kept mute: Operation not supported"
    boot.close()
    assert "cannot be kept mute" in capsys.readouterr().err


def test_a_descriptor_that_is_none_ends_it(capsys):
    assert module.run("nonsense") == 1
    assert module.run("999999") == 1
    assert "of the container runtime" in capsys.readouterr().err


def looked(boot):
    boot.look(tuple(boot._doubtful.values()))
    return set(boot._doubtful)


@pytest.mark.parametrize(
    ("says", "labels", "opened"),
    [
        ({"other": Marks()}, {}, [7]),
        ({"other": Marks(IN)}, {}, []),  # it joined since the daemon wrote
        ({"other": Marks(IN)}, {"edgemesh.io/mesh": "disabled"}, [7]),
        ({}, {}, []),  # it is deleted
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_in_a_cluster_its_namespace_is_asked_for_as_it_is_now(asking, inquiry, kernel, says, labels, opened, known):
    if not known:
        asking._files.save(Known(server="10.43.0.1:443"))
    inquiry.says = says
    asking.judge(Sandbox("s", "other", "p", netns="/n", labels=labels))
    assert kernel.opened == [], "before it is asked"
    assert looked(asking) == set()
    assert kernel.opened == opened
    assert inquiry.asked == ["other"]


def test_nobody_is_asked_about_pods_whose_answer_is_known(asking, inquiry, kernel):
    asking.judge(Sandbox("s1", "shop", "p", netns="/n"))
    asking.judge(Sandbox("s2", "kube-system", "p", netns="/n"))
    asking.judge(Sandbox("s3", "other", "p"))
    assert looked(asking) == set()
    assert kernel.opened == [7], "s2"
    assert inquiry.asked == []


def test_while_nobody_answers_a_pod_stays_mute_and_is_asked_about_again(asking, inquiry, kernel, capsys):
    inquiry.says = None
    for name in ("s1", "s2"):
        asking.judge(Sandbox(name, "other", "p", netns="/n"))
    assert looked(asking) == looked(asking) == {"s1", "s2"}
    assert inquiry.asked == ["other"] * 2, "once in a round"
    assert capsys.readouterr().err.count("it is away") == 1
    inquiry.says = {"other": Marks()}
    assert looked(asking) == set()
    assert kernel.opened == [7, 7]
    assert inquiry.asked == ["other"] * 3


def test_while_a_daemon_runs_it_is_left_to_it_and_taken_up_again_when_it_dies(asking, inquiry, kernel):
    kernel.refuse, inquiry.says = errno.EPERM, {"other": Marks()}
    asking.judge(Sandbox("s", "other", "p", netns="/n"), 10.0)
    assert looked(asking) == {"s"}
    assert inquiry.asked == [] == kernel.opened
    kernel.refuse = 0
    assert looked(asking) == set()
    assert kernel.opened == [7]


def test_a_pod_that_the_daemon_let_speak_or_that_is_gone_is_decided(asking, kernel):
    kernel.refuse = errno.EPERM
    for name in ("s1", "s2"):
        asking.judge(Sandbox(name, "other", "p", netns="/n"))
    asking._answer(Request(1, "", "RemovePodSandbox", field(1, pod("s1", namespace="other"))))
    assert looked(asking) == {"s2"}
    kernel.opened = [7]
    assert looked(asking) == set()


def test_the_runtime_is_answered_when_the_api_server_has(asking, inquiry, kernel):
    inquiry.says = {"other": Marks()}
    threading.Thread(target=asking.ask, daemon=True).start()
    asking.judge(Sandbox("s", "other", "p", netns="/n"), 30.0)
    assert kernel.opened == [7]


def test_the_runtime_is_answered_though_nobody_answers_us(asking, inquiry, kernel):
    inquiry.says = None
    asking.judge(Sandbox("s", "other", "p", netns="/n"), 0.01)
    assert kernel.opened == []
    assert asking._doubtful.keys() == {"s"}
