"""Every how-to of docs/ is typed in its order: what is typed in a checkout, in clean namespaces; what is typed on boxes, by test_howto_boxes.py."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.netns import conftest as netns
from tests.readme.place import Place
from tests.readme.script import TREE, Command, Manifest, read

HOWTOS = TREE / "docs/howto"
ON_BOXES = {"two-nodes", "rotate-the-root", "update-a-fleet"}
ON_A_CLUSTER = {"k3s", "outside-client"}  # tests/kube/test_howto_k3s.py, tests/kube/test_access_certs.py
BY_THE_API_SERVER = {"k3s-cli"}  # test_howto_clusters.py
ELSEWHERE = ON_BOXES | ON_A_CLUSTER | BY_THE_API_SERVER
CHECKOUT = sorted(path.stem for path in HOWTOS.glob("*.md") if path.stem not in {"index", *ELSEWHERE})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "howto" in metafunc.fixturenames:
        metafunc.parametrize("howto", CHECKOUT)


def script(name: str) -> list[Command | Manifest]:
    return list(read((HOWTOS / f"{name}.md").read_text("utf-8")))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def settled(place: Place, command: Command, seconds: float = 15) -> None:
    """Type it. A person who does not see yet what the page says looks again."""
    until = time.monotonic() + seconds
    while True:
        try:
            place.run(command)
            return
        except AssertionError:
            if not command.prints or time.monotonic() > until:
                raise
            time.sleep(0.3)


def typed(place: Place, steps: Iterable[Command | Manifest]) -> None:
    """`edgemesh run` stays in a terminal of its own until `edgemesh cleanup`, or the end. Manifests with a file are written there."""
    with contextlib.ExitStack() as running:
        for step in steps:
            if isinstance(step, Manifest):
                if step.file:
                    words = f"mkdir -p {Path(step.file).parent} && cat >{step.file} <<'MANIFEST'\n{step.text}MANIFEST\n"
                    place.run(Command(step.section, "", True, words))
            elif step.where:
                continue  # on a box, beside what is typed here
            elif "edgemesh run" in step.words:
                running.enter_context(place.staying(step, "enforces policy"))
            else:
                if step.words.endswith("edgemesh cleanup"):
                    running.close()
                settled(place, step)


@pytest.mark.skipif(netns.ROOTLESS, reason="needs root")
def test_a_howto_does_what_it_says(place: Place, howto: str) -> None:
    steps = script(howto)
    assert any(isinstance(step, Command) and not step.where for step in steps), f"docs/howto/{howto}.md types nothing"
    typed(place, steps)


def test_every_howto_is_typed_by_somebody() -> None:
    assert {path.stem for path in HOWTOS.glob("*.md")} >= ON_BOXES & {path.stem for path in HOWTOS.glob("*.md")}
    for path in HOWTOS.glob("*.md"):
        boxes = [step for step in script(path.stem) if isinstance(step, Command) and step.where]
        assert path.stem in ELSEWHERE or all("journalctl" in step.words for step in boxes), (
            f"no test types {boxes[0]} of {path.name}"
        )
