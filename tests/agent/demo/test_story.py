"""How a chapter is told: what is compared, and what is printed. The village is a stand-in."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from agent.demo import story
from agent.demo.chapters import NO_ANSWER, Ask, Chapter, Scene
from agent.demo.processes import StartFailed
from agent.demo.story import Seen, Story, judge

ASK = Ask("http://web/", {"200": 2}, served={"a": (1, 2), "b": (0, 0)}, says="a GET", least=0.5)


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (Seen({"200": 2}, {"a": 2, "b": 0}, 0.6), ""),
        (Seen({"200": 1, "503": 1}, {"a": 2}, 0.6), "expected 2 x 200"),
        (Seen({"200": 2}, {"a": 2, "b": 1}, 0.6), "expected that b serves 0"),
        (Seen({"200": 2}, {}, 0.6), "expected that a serves 1 to 2"),
        (Seen({"200": 2}, {"a": 1}, 0.4), "expected 0.5 s at least, one took 0.40"),
        (Seen({"200": 2}, {"a": 1}, 0.6, "b GET /"), "expected 'a GET' in each response, one was 'b GET /'"),
    ],
)
def test_what_is_not_as_wanted_is_named(seen, wrong):
    assert judge(ASK, seen) == ([wrong] if wrong else [])


class Hamlet:
    """Every call gets the next of `answers`, and is served by `a`."""

    def __init__(self, answers: list[tuple[str, str]]) -> None:
        self.answers, self.applied, self.served = answers, [], 0
        self.network = SimpleNamespace(sites=("node",), name=lambda host: host)
        self.mesh = SimpleNamespace(socket=lambda site: Path("s"))
        self.certificates = Path("/certificates")
        self.config = SimpleNamespace(path=Path("/config"))
        self.processes = SimpleNamespace(tail=lambda name: "its log", ended=lambda: "")

    def apply(self, files):
        self.applied.append(files)
        return 10.0

    def start_mesh(self, ready):
        pass

    def asked(self):
        return {"a": self.served}

    def curl(self, ask, namespace, certificates):
        self.served += 1
        return self.answers.pop(0)


@pytest.fixture
def told(monkeypatch):
    """told(answers, built, last=2, hold=False) -> (exit code, what was printed, hamlet)."""

    def tell(answers, built, last=2, hold=False):
        hamlet, out = Hamlet(answers), io.StringIO()
        monkeypatch.setattr(story, "curl", hamlet.curl)
        monkeypatch.setattr(story, "SETTLE", 0.0)
        monkeypatch.setattr(story.client, "get", lambda *_: {"snapshot": {"built": built.pop(0)}})
        scenes = (
            Scene("first", (), (Ask("http://web/", {"200": 2}, says="hello"),)),
            Scene("second", ("b.yaml",), (Ask("http://web/x", {NO_ANSWER: 1}, served={"a": (0, 0)}),)),
        )
        code = Story(hamlet, False, Console(file=out, width=150)).run(
            Chapter("about it", ("a.yaml",), scenes), last, hold
        )
        return code, out.getvalue(), hamlet

    return tell


def test_scenes_are_applied_waited_for_called_and_judged(told):
    code, printed, hamlet = told([("200", "hello"), ("200", "hello"), (NO_ANSWER, "")], [10.0, 9.9, 10.1])
    assert hamlet.applied == [("a.yaml",), ("a.yaml",), ("a.yaml", "b.yaml")]
    assert "scene 2 of 2: second" in printed
    assert "applies /config/b.yaml" in printed
    assert "client: curl http://web/ (2 times): 2 x 200, a served 2 ok" in printed
    assert "expected that a serves 0" in printed
    assert (code, printed.rstrip().endswith("FAILED: 1")) == (1, True)


def test_it_ends_after_the_scene_that_was_named(told):
    code, printed, _ = told([("200", "hello")] * 2, [10.0], last=1)
    assert (code, "second" in printed, "all held" in printed) == (0, False, True)


def test_a_change_that_is_never_in_force_ends_it(told, monkeypatch):
    monkeypatch.setattr(story, "IN_FORCE", 0.0)
    with pytest.raises(StartFailed, match=r"(?s)not in force.*its log"):
        told([], [9.0, 9.0])


def test_it_holds_at_a_scene(told, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(story.time, "sleep", interrupted)
    _, printed, hamlet = told([(NO_ANSWER, "")], [10.0], last=2, hold=True)
    assert hamlet.applied == [("a.yaml", "b.yaml")] * 2
    assert "ip netns exec client curl -i http://web.shop/" in printed
    assert "edgemesh status --socket s" in printed
    assert "edgemesh explain --socket s client http://web.shop/" in printed


def test_no_response_is_no_status(monkeypatch):
    outputs = [b"\n000", b"", b"the body\nand more\n200"]
    monkeypatch.setattr(story.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=outputs.pop(0)))
    ask = Ask("http://web/", {"200": 1})
    assert [story.curl(ask, "n", Path("/c")) for _ in range(3)] == [
        (NO_ANSWER, ""),
        (NO_ANSWER, ""),
        ("200", "the body\nand more"),
    ]
