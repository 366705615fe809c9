"""The kernel has none just now, while manifests are looked at and what outlives us is written: nothing that was said is withdrawn by it."""

import errno
import itertools
from pathlib import Path

import pytest

from agent.config.settings import Settings
from agent.kernel.cni import Records
from agent.sources.directory import Directory
from agent.store.disk import State
from agent.store.store import Store
from tests.agent.lacks import Lacks, Place

NUMBERS = (errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EINTR, errno.EIO)
_CLOSING = (
    "__enter__",
    "__exit__",
)  # of a file: the first asks nothing of the kernel, the second has closed whatever it says
WORKLOAD = (
    "apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: {0}, namespace: n}}\nspec: {{netns: {0}}}\n"
)


class Life:
    """A directory, the store that hears of it, and the state directory."""

    def __init__(self, path: Path) -> None:
        self.manifests = path / "manifests"
        (self.manifests / "deep").mkdir(parents=True)
        self.write("a", "deep/b")
        self.path = path
        self.state = State(path / "state")
        self.store = Store(Settings(host="box"), self.state)
        self.directory = Directory(self.manifests)

    def write(self, *names: str) -> None:
        for name in names:
            (self.manifests / f"{name}.yaml").write_text(WORKLOAD.format(name.rpartition("/")[2]))

    def look(self) -> list[str]:
        self.store.apply(*self.directory.scan())
        published = self.store.make()
        assert published is not None
        self.store.published = published
        self.state.save(self.store._good.values(), self.store._addresses)
        self.state.save_places({"netns x": "n/a"})
        return [workload.name for workload in published.snapshot.workloads]


def lived(path: Path, lacks: Lacks) -> None:
    life = Life(path)
    assert life.look() == ["a", "b"]
    life.write("c")
    with lacks():
        during = life.look()
    # Whatever failed, what was said before still holds, and is not on its way out either.
    assert {"a", "b"} <= set(during), during
    assert life.store.published.kept == (), "nothing is taken for gone"  # type: ignore[union-attr]
    for _ in range(2):
        after = life.look()
    assert after == ["a", "b", "c"]
    assert [problem for problem in life.store.problems if problem.severity == "error"] == []
    again = Store(Settings(host="box"), State(path / "state"))
    assert sorted(again._good) == ["Workload n/a", "Workload n/b", "Workload n/c"]
    assert State(path / "state").places() == {"netns x": "n/a"}


def test_every_call_fails_once(tmp_path: Path) -> None:
    recorded = Lacks()
    lived(tmp_path / "first", recorded)
    places = [place for place in sorted(recorded.seen) if place.function not in _CLOSING]
    assert {"scandir", "open", "fsync", "rename"} <= {place.function for place in places}
    numbers, missed = itertools.cycle(NUMBERS), 0
    for count, place in enumerate(places):
        for number in (next(numbers), next(numbers)):
            lacks = Lacks(place, number)
            try:
                lived(tmp_path / f"{count}-{number}", lacks)
            except BaseException as error:
                raise AssertionError(f"{place} with {errno.errorcode[number]}") from error
            missed += not lacks.failed
    assert missed < len(places), "some calls are made once in a process, and most in each life"


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_runtime_wrote_cannot_be_read_just_now(tmp_path: Path, number: int) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "ns").touch()
    (tmp_path / "results" / "x").write_text(
        f'{{"netns": "{tmp_path}/ns", "result": {{"ips": [{{"address": "10.0.0.7/24"}}]}}}}'
    )
    recorded = Lacks()
    with recorded():
        list(Records(tmp_path / "results").sandboxes())
    for place in recorded.seen:
        if place.function in _CLOSING:
            continue
        records = Records(tmp_path / "results")
        with Lacks(Place(place.file, place.line, place.function), number)():
            list(records.sandboxes())
        assert [sandbox.addresses for sandbox in records.sandboxes()] == [frozenset({"10.0.0.7"})]
