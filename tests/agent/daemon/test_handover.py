"""One daemon hands over to another: whoever dies, hangs or talks nonsense, one of them goes on and the other ends."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from agent.daemon import handover as module
from agent.daemon.handover import Applicant, Door, HandoverError, Predecessor, Successor, Word, predecessor
from tests.manager import lives

ROOT = Path(__file__).parents[3]

# A successor in a process of its own; `{do}` is what it does.
CHILD = """
import os, signal, sys, time
import trio
from agent.daemon import handover
{early}
before = handover.predecessor()
def say(text):
    with open(os.environ["SAID"], "a") as out:
        print(text, file=out)
async def main():
    {do}
trio.run(main)
"""
GOOD = """say(sorted((name, len(fds)) for name, fds in before.given.items()))
    say((before.pid == os.getppid(), before.captured, before.identities))
    await before.report("", "9.9")
    say("may serve")
    await before.opened()
    say("serves")"""


def child(do: str = GOOD, early: str = "") -> list[str]:
    return [sys.executable, "-c", CHILD.format(do=do, early=early)]


@pytest.fixture(autouse=True)
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the successor said."""
    path = tmp_path / "said"
    monkeypatch.setenv("SAID", str(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lambda: path.read_text().splitlines() if path.exists() else []


@pytest.fixture
async def successor() -> Iterator[Callable[..., Successor]]:  # type: ignore[misc]
    made: list[Successor] = []

    def start(*words: str, early: str = "") -> Successor:
        made.append(Successor(child(*words, early=early)))
        return made[-1]

    yield start  # type: ignore[misc]
    for one in made:
        await one.kill()


Start = Callable[..., Successor]


@pytest.fixture
def sockets() -> Iterator[Callable[[int], list[socket.socket]]]:
    made: list[socket.socket] = []

    def some(count: int) -> list[socket.socket]:
        made.extend(socket.socket() for _ in range(count))
        return made[-count:]

    yield some
    for sock in made:
        sock.close()


# both sides


async def test_all_is_lent_and_then_it_serves(
    successor: Start, sockets: Callable[[int], list[socket.socket]], said: Callable[[], list[str]]
) -> None:
    """More descriptors than one message holds (SCM_MAX_FD is 253)."""
    one = successor()
    lent = {
        "namespace 7": [sock.fileno() for sock in sockets(450)],
        "unit 1 a/b": [sock.fileno() for sock in sockets(1)],
        "none": [],
    }
    await one.lend(lent, ["a/b"], ["spiffe://x"])
    assert await one.well() == "9.9"
    assert said() == ["[('namespace 7', 450), ('unit 1 a/b', 1)]", "(True, ['a/b'], ['spiffe://x'])"], (
        "it does not serve before it may"
    )
    await one.go()
    await trio.to_thread.run_sync(one._process.wait)
    assert said()[2:] == ["may serve", "serves"]


async def test_what_is_lent_is_not_inherited_by_its_children_and_is_the_same(
    successor: Start, said: Callable[[], list[str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        one = successor(
            "say([(os.get_inheritable(fd), os.fstat(fd).st_ino) for fd in before.given['a']]); await before.report('', '1')"
        )
        await one.lend({"a": [door.fileno()]}, [], [])
        await one.well()
        assert said() == [str([(False, os.fstat(door.fileno()).st_ino)])]


@pytest.mark.parametrize("fault", ["a/b is not captured: no"])
async def test_one_that_is_not_well_says_why(successor: Start, fault: str) -> None:
    one = successor(f"await before.report({fault!r}, '1')")
    await one.lend({}, [], [])
    with pytest.raises(HandoverError, match=fault):
        await one.well()


# the successor dies at each point, hangs, or talks nonsense


async def journey(one: Successor) -> str:
    await one.lend({"a": [0]}, [], [])
    version = await one.well()
    await one.go()
    return version


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("point", ["before it reads", "after it read", "after it said well", "after go"])
async def test_it_dies(successor: Start, how: str, point: str) -> None:
    send = 'before._stream.send(b\'{"kind": "well"}\')'
    match point:
        case "before it reads":
            one = successor("pass", early=how)
        case "after it read":
            one = successor(how)
        case "after it said well":
            one = successor(f"await {send}; {how}")
        case _:
            one = successor(f"await {send}; await before._stream.recv(99); {how}")
    with trio.fail_after(60), pytest.raises(HandoverError, match=r"exit code 3|signal 9|could not be given"):
        await journey(one)


@pytest.mark.parametrize("point", ["before it reads", "after it read", "after it said well"])
async def test_it_hangs_and_is_killed(successor: Start, point: str) -> None:
    """The daemon bounds each part; here the bound is that it surely hangs already."""
    match point:
        case "before it reads":
            one = successor("pass", early="time.sleep(600)")
        case "after it read":
            one = successor("await trio.sleep_forever()")
        case _:
            one = successor('await before._stream.send(b\'{"kind": "well"}\'); await trio.sleep_forever()')
            await one.lend({}, [], [])
            await one.well()
    with trio.move_on_after(0.05) as scope:
        await (one.go() if "well" in point else journey(one))
    assert scope.cancelled_caught
    await one.kill()
    assert one._process.returncode == -signal.SIGKILL
    await one.kill()


@pytest.mark.parametrize(
    "word", ["b'nonsense'", "b'{}'", "b'{\"kind\": 1}'", "b'[]'", "b'x' * 100000", 'b\'{"kind": "gone"}\'']
)
async def test_it_talks_nonsense(successor: Start, word: str) -> None:
    one = successor(f"await before._stream.send({word}); await trio.sleep_forever()")
    with trio.fail_after(60), pytest.raises(HandoverError):
        await journey(one)


async def test_it_says_something_else_than_gone(successor: Start) -> None:
    one = successor(
        'await before._stream.send(b\'{"kind": "well"}\'); await before._stream.send(b\'{"kind": "well"}\'); await trio.sleep_forever()'
    )
    with trio.fail_after(60), pytest.raises(HandoverError, match="said 'well' instead of taking over"):
        await journey(one)


def test_what_cannot_be_started(tmp_path: Path) -> None:
    async def start() -> None:
        (tmp_path / "text").write_text("no program")
        for path in (tmp_path / "gone", tmp_path / "text", tmp_path):
            with pytest.raises(HandoverError, match="cannot be started"):
                Successor([str(path)])

    trio.run(start)


# the predecessor as a successor sees it


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(its end, ours)"""
    its, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield its, ours
    its.close()
    ours.close()


Pair = tuple[socket.socket, socket.socket]


def word(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("last", [b"", b"nonsense", b"{}", b'{"kind": "lend", "captured": 1}', b"[" * 5000])
def test_a_predecessor_that_ends_or_talks_nonsense_leaves_nothing_open(pair: Pair, last: bytes) -> None:
    its, ours = pair
    with socket.socket() as sock:
        socket.send_fds(its, [word(kind="lend", name="a")], [sock.fileno(), sock.fileno()])
        before = descriptors()
        if last:
            socket.send_fds(its, [last], [sock.fileno()])
        else:
            its.close()
        with pytest.raises(HandoverError, match="nothing was handed over"):
            Predecessor(ours)
    assert descriptors() <= before


def test_a_predecessor_that_says_nothing_is_not_waited_for_without_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    with pytest.raises(HandoverError, match="timed out"):
        Predecessor(pair[1])


def test_descriptors_that_there_is_no_room_for_are_missed(pair: Pair) -> None:
    """The kernel leaves out what does not fit (MSG_CTRUNC): a daemon without some of its doors must not pass for well."""
    its, ours = pair
    with socket.socket() as sock:
        socket.send_fds(its, [word(kind="lend", name="a")], [sock.fileno()] * 100)
        its.send(word(kind="lent"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = descriptors()
        free = [number for number in range(2 * len(before) + 100) if str(number) not in before]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[20], hard))
        try:
            with pytest.raises(HandoverError, match="too few descriptors may be open"):
                Predecessor(ours)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() <= before


@pytest.mark.parametrize("answer", [b"", b"nonsense", b'{"kind": "stay"}', b"{}"])
async def test_without_a_go_it_does_not_serve(pair: Pair, answer: bytes) -> None:
    its, ours = pair
    its.send(word(kind="lent"))
    before = Predecessor(ours)
    if answer:
        its.send(answer)
    else:
        its.close()
    with pytest.raises(HandoverError, match="did not want us"):
        await before.report("", "1")


async def test_one_that_is_not_well_does_not_serve_whatever_it_is_told(pair: Pair) -> None:
    its, ours = pair
    its.send(word(kind="lent"))
    its.send(word(kind="go"))
    with pytest.raises(HandoverError, match="too slow"):
        await Predecessor(ours).report("it is too slow here", "1")
    assert msgspec.json.decode(its.recv(1000), type=Word) == Word("unwell", why="it is too slow here")


def test_who_is_started_by_nobody_has_no_predecessor(pair: Pair) -> None:
    assert predecessor({}) is None
    assert predecessor({"EDGEMESH_HANDOVER": "x"}) is None
    environment = {"EDGEMESH_HANDOVER": "99999"}
    with pytest.raises(HandoverError, match="EDGEMESH_HANDOVER=99999"):
        predecessor(environment)
    assert environment == {}, "it is nobody's after us"


# when the predecessor dies (PR_SET_PDEATHSIG)

MIDDLE = """
import sys, trio
from agent.daemon.handover import Successor
async def main():
    one = Successor([sys.executable, "-c", sys.argv[1]])
    print(one.pid, flush=True)
    await one.lend({}, [], [])
    if sys.argv[2] == "gone":
        await one.well()
        await one.go()
        print("gone", flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


def until(condition: Callable[[], object]) -> None:
    bound = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < bound
        time.sleep(0.01)


@pytest.mark.parametrize("ignores", [False, True])
def test_a_successor_that_may_not_serve_yet_ends_with_its_predecessor(ignores: bool) -> None:
    """Also one that hangs, and does not see that the pair was closed."""
    ending = child("await trio.sleep_forever()", early="time.sleep(600)" if ignores else "")[2]
    with subprocess.Popen([sys.executable, "-c", MIDDLE, ending, "lent"], stdout=subprocess.PIPE) as middle:
        assert middle.stdout is not None
        pid = int(middle.stdout.readline())
        assert lives(pid)
        middle.kill()
    until(lambda: not lives(pid))


def test_one_that_serves_outlives_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    do = f"{GOOD}\n    open({str(tmp_path / 'fifo')!r}).read()\n    say('lives')"
    with subprocess.Popen([sys.executable, "-c", MIDDLE, child(do)[2], "gone"], stdout=subprocess.PIPE) as middle:
        assert middle.stdout is not None
        pid = int(middle.stdout.readline())
        assert middle.stdout.readline() == b"gone\n"
        middle.kill()
    (tmp_path / "fifo").write_text("")  # opens when it reads, so it is there
    until(lambda: not lives(pid))
    assert (tmp_path / "said").read_text().splitlines()[-1] == "lives"


async def test_a_successor_is_ended_also_where_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    successor = Successor([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(trio.to_thread, "run_sync", none)
    await successor.kill()
    assert successor._process.returncode == -signal.SIGKILL


# the daemon of another pod, which asks by itself

APPLIES = """
import os, sys, time
from pathlib import Path
import trio
from agent.daemon import handover
before = handover.applied(Path(sys.argv[1]))
def say(text):
    with open(os.environ["SAID"], "a") as out:
        print(text, file=out)
async def main():
    say((before.pid == int(sys.argv[2]), sorted((name, len(fds)) for name, fds in before.given.items())))
    {do}
trio.run(main)
"""
TAKES = """await before.report("", "9.9")
    say("may serve")
    await before.opened()
    await trio.sleep_forever()"""


@pytest.fixture
async def applied(tmp_path: Path, nursery: trio.Nursery) -> Iterator[Callable[..., Any]]:  # type: ignore[misc]
    """Start a daemon that applies; return what came to our door, and its process."""
    arrived: trio.MemorySendChannel[Applicant]
    arrived, arrivals = trio.open_memory_channel[Applicant](4)
    nursery.start_soon(Door(tmp_path / "s").serve, arrived.send, nursery)
    made: list[subprocess.Popen[bytes]] = []

    async def apply(do: str = TAKES) -> tuple[Applicant, subprocess.Popen[bytes]]:
        while not (tmp_path / "s.handover").exists():
            await trio.sleep(0.01)
        words = [sys.executable, "-c", APPLIES.format(do=do), str(tmp_path / "s"), str(os.getpid())]
        made.append(subprocess.Popen(words))
        with trio.fail_after(30):
            return await arrivals.receive(), made[-1]

    yield apply  # type: ignore[misc]
    for process in made:
        process.kill()
        process.wait()


async def test_the_daemon_of_the_next_pod_takes_over(
    applied: Callable[..., Any], sockets: Callable[[int], list[socket.socket]], said: Callable[[], list[str]]
) -> None:
    one, process = await applied()
    assert one.pid == process.pid
    await one.lend({"namespace 7": [sock.fileno() for sock in sockets(450)]}, ["a/b"], ["spiffe://x"])
    assert await one.well() == "9.9"
    assert said() == ["(True, [('namespace 7', 450)])"], "it does not serve before it may"
    await one.go()
    one.part()
    assert said()[1:] == ["may serve"]
    with trio.move_on_after(0.2) as waiting:
        await one.ended()
    assert waiting.cancelled_caught, "it lives"
    process.kill()
    with trio.fail_after(5):
        await one.ended()


async def test_one_that_is_too_late_is_killed(applied: Callable[..., Any]) -> None:
    one, process = await applied("time.sleep(60)")
    await one.lend({}, [], [])
    await one.kill()
    assert process.wait() == -signal.SIGKILL
    await one.refuse("it was too late")  # nobody hears it, and nothing happens


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
async def test_one_that_dies_took_nothing_over(applied: Callable[..., Any], how: str) -> None:
    one, _ = await applied(how)
    await one.lend({}, [], [])
    with pytest.raises(HandoverError, match="it ended"):
        await one.well()
    await one.kill()


async def test_it_ends_when_the_old_daemon_breaks_off(applied: Callable[..., Any]) -> None:
    one, process = await applied()
    await one.lend({}, [], [])
    await one.well()
    one.part()
    assert await trio.to_thread.run_sync(process.wait) == 1


async def test_one_that_is_refused_hears_why(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def refuses(_: Applicant) -> None:
        raise HandoverError("this daemon stops")

    nursery.start_soon(Door(tmp_path / "s").serve, refuses, nursery)
    await trio.testing.wait_all_tasks_blocked()
    assert (tmp_path / "s.handover").stat().st_mode & 0o777 == 0o600
    with pytest.raises(HandoverError, match="nothing was handed over: this daemon stops"):
        await trio.to_thread.run_sync(module.applied, tmp_path / "s")


async def test_a_fault_of_a_handover_does_not_end_the_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def fails(_: Applicant) -> None:
        raise ZeroDivisionError

    nursery.start_soon(Door(tmp_path / "s").serve, fails, nursery)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        with pytest.raises(HandoverError, match="a fault of edgemesh itself"):
            await trio.to_thread.run_sync(module.applied, tmp_path / "s")


async def test_nothing_is_handed_to_another_user(tmp_path: Path, nursery: trio.Nursery, monkeypatch: Any) -> None:
    async def never(_: Applicant) -> None:
        raise AssertionError("it came in")

    real = module._peer
    monkeypatch.setattr(module, "_peer", lambda sock: (real(sock)[0], os.geteuid() + 1))
    nursery.start_soon(Door(tmp_path / "s").serve, never, nursery)
    await trio.testing.wait_all_tasks_blocked()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(tmp_path / "s.handover"))
        assert await trio.to_thread.run_sync(sock.recv, 100) == b"", "it was closed"
    with pytest.raises(HandoverError, match="is not a daemon of ours"):
        module.applied(tmp_path / "s")


@pytest.mark.parametrize("left", [False, True])
def test_where_none_listens_there_is_nobody_to_take_over_from(tmp_path: Path, left: bool) -> None:
    if left:  # by a daemon that was killed
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(tmp_path / "s.handover"))
    assert module.applied(tmp_path / "s") is None
