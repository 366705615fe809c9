"""plugin.py: a runtime that speaks NRI over a socket pair; what it is answered, and when."""

import socket

import pytest
import trio

from agent.nri import frames
from agent.nri import plugin as module
from agent.nri.frames import Reader, Request, Response
from agent.nri.plugin import Plugin
from agent.nri.protobuf import field, fields
from tests.agent.nri.test_frames import called, framed
from tests.agent.nri.test_messages import pod


class Ground:
    """Capture. `ready`: pods that may speak."""

    def __init__(self):
        self.announced, self.gone, self.ready, self.there = [], [], {}, []

    def announce(self, sandbox):
        self.announced.append(sandbox)
        self.ready.setdefault(sandbox.name, trio.Event())

    def running(self, sandboxes):
        self.there += sandboxes

    async def admitted(self, sandbox):
        await self.ready[sandbox.name].wait()

    def departed(self, sandbox_id):
        self.gone.append(sandbox_id)


class Runtime:
    """The other end of the connection."""

    def __init__(self, stream):
        self.stream, self.reader, self.said, self.calls = stream, Reader(), [], 0

    async def next(self):
        while not self.said:
            data = await self.stream.receive_some(65536)
            assert data, "closed"
            self.said += self.reader.feed(bytes(data))
        return self.said.pop(0)

    async def register(self):
        asked = await self.next()
        await self.stream.send_all(framed(frames.THEIRS, asked.call, 2, field(2, b"")))
        return asked

    async def call(self, method, payload=b""):
        self.calls += 2
        await self.stream.send_all(called(self.calls - 1, method, payload))
        said = await self.next()
        assert isinstance(said, Response) and said.call == self.calls - 1 and not said.error
        return said.payload

    async def begin(self):
        await self.register()
        await self.call("Configure", field(2, "containerd") + field(3, "v2.4.2") + field(5, 2000))
        await self.call("Synchronize")


@pytest.fixture
def ground():
    return Ground()


@pytest.fixture
async def runtime(ground, nursery):
    """A runtime to which a plugin is connected."""
    ours, theirs = trio.socket.socketpair()
    found = Runtime(trio.SocketStream(theirs))
    found.plugin = Plugin(ground)

    async def serve():
        async with trio.SocketStream(ours) as stream:
            try:
                await found.plugin.serve(stream)
            except Exception as error:
                found.failed = error
            found.ended = True

    nursery.start_soon(serve)
    yield found
    ours.close()
    theirs.close()


async def test_it_registers_and_says_what_it_wants_to_hear(runtime, ground):
    asked = await runtime.register()
    assert (asked.service, asked.method) == ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin")
    assert dict(fields(asked.payload)) == {1: b"edgemesh", 2: b"10"}
    answer = await runtime.call("Configure", field(2, "containerd") + field(3, "v2.4.2") + field(5, 2000))
    assert answer == field(2, 0b101)
    assert runtime.plugin.runtime == "containerd v2.4.2"
    assert await runtime.call("Synchronize", field(1, pod("s0")) + field(3, 1)) == field(2, 1)
    assert await runtime.call("Synchronize", field(1, pod("s1"))) == b""
    assert [sandbox.id for sandbox in ground.there] == ["s0", "s1"]
    assert ground.announced == [], "each would be looked at by itself, in the midst of the proxy's work"


async def test_a_pod_is_answered_when_it_may_speak(runtime, ground, autojump_clock):
    await runtime.begin()

    async def ready():
        await trio.sleep(0.3)
        ground.ready["till"].set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ready)
        began = trio.current_time()
        assert await runtime.call("RunPodSandbox", field(1, pod(labels={"app": "till"}))) == b""
        assert 0.3 <= trio.current_time() - began < 0.4
    (sandbox,) = ground.announced
    assert (sandbox.pod, sandbox.labels, sandbox.made > 0) == ("shop/till", {"app": "till"}, True)
    assert runtime.plugin.late == 0


async def test_and_within_the_runtimes_limit_in_any_case(runtime, ground, autojump_clock, caplog):
    await runtime.begin()
    began = trio.current_time()
    await runtime.call("RunPodSandbox", field(1, pod()))
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)
    assert runtime.plugin.late == 1
    assert "it is mute until then" in caplog.text


async def test_a_shorter_limit_is_kept_too(runtime, ground, autojump_clock):
    await runtime.register()
    await runtime.call("Configure", field(5, 500))
    began = trio.current_time()
    await runtime.call("RunPodSandbox", field(1, pod()))
    assert trio.current_time() - began == pytest.approx(0.25, abs=0.05)


async def test_a_pod_in_the_nodes_own_namespace_and_other_events_are_answered_at_once(runtime, ground):
    await runtime.begin()
    assert await runtime.call("RunPodSandbox", field(1, pod(netns=""))) == b""
    assert await runtime.call("CreateContainer", field(1, pod())) == b""
    assert await runtime.call("NeverHeardOf", b"\x0a\x01x") == b""
    assert ground.announced == []
    assert await runtime.call("StateChange", field(1, 3) + field(2, pod("s9"))) == b""
    assert ground.gone == ["s9"]


async def test_one_that_waits_keeps_no_other_waiting(runtime, ground):
    await runtime.begin()
    await runtime.stream.send_all(called(101, "RunPodSandbox", field(1, pod(name="slow"))))
    await runtime.stream.send_all(called(103, "RemovePodSandbox", field(1, pod("s9"))))
    assert (await runtime.next()).call == 103


@pytest.mark.parametrize("data", [b"\xff" * 64, called(1, "RunPodSandbox", field(1, b"\xff"))])
async def test_a_runtime_that_speaks_another_language_is_left(runtime, data):
    await runtime.register()
    await runtime.stream.send_all(data)
    assert await runtime.stream.receive_some(1) == b""


async def test_a_registration_that_is_refused_or_not_answered_ends(runtime, autojump_clock):
    await runtime.next()
    assert await runtime.stream.receive_some(1) == b""
    assert isinstance(runtime.failed, trio.TooSlowError)


async def test_it_connects_again_when_the_runtime_restarts(tmp_path, ground, autojump_clock, monkeypatch):
    path = str(tmp_path / "nri.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
        accepting = trio.socket.from_stdlib_socket(listening)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Plugin(ground, [str(tmp_path / "none"), path]).run)
            for how in ("closed", "nonsense", "closed"):
                accepted, _ = await accepting.accept()
                runtime = Runtime(trio.SocketStream(accepted))
                await runtime.begin()
                if how == "nonsense":
                    await runtime.stream.send_all(b"\xff" * 64)
                await runtime.stream.aclose()
            nursery.cancel_scope.cancel()


async def test_it_waits_for_a_socket_to_appear(tmp_path, ground, autojump_clock):
    path = str(tmp_path / "nri.sock")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Plugin(ground, [path]).run)
        await trio.sleep(5)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            listening.setblocking(False)
            accepted, _ = await trio.socket.from_stdlib_socket(listening).accept()
            await Runtime(trio.SocketStream(accepted)).register()
            accepted.close()
        nursery.cancel_scope.cancel()


async def test_a_fault_of_ours_is_not_taken_for_a_lost_connection():
    with pytest.raises(ExceptionGroup):
        module._why(ExceptionGroup("", [KeyError("x"), OSError("gone")]))
    assert module._why(ExceptionGroup("", [OSError("gone")])) == "gone"


def test_requests_are_told_from_responses():
    assert isinstance(Reader().feed(called(1, "x"))[0], Request)
