"""The chapters as data: what each scene applies is accepted whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agent.demo import documents
from agent.demo.chapters import CHAPTERS, Ask
from agent.demo.plan import VILLAGE
from agent.demo.village import SERVERS
from agent.store.store import look

NETWORK = SimpleNamespace(ipv6=True, name=lambda host: f"em-{host}")
SCENES = [
    pytest.param(chapter, scene, id=f"{name}: {scene.title}")
    for name, chapter in CHAPTERS.items()
    for scene in chapter.scenes
]


@pytest.mark.parametrize(("chapter", "scene"), SCENES)
def test_what_a_scene_applies_has_no_problem(tmp_path, chapter, scene):
    for name in (*chapter.files, *scene.files):
        (tmp_path / name).write_text(documents.fixed(name))
    for host in VILLAGE:
        if host.name in documents.MEMBERS:
            (tmp_path / f"workload-{host.name}.yaml").write_text(documents.workload(host, NETWORK))
    published = look([tmp_path])
    found = [str(problem) for problem in published.problems if problem.severity != "notice"]
    # A scene before the one that lets callers in shows just that: calls by the Gateway get 403.
    assert [one for one in found if "lets in nobody who comes by" not in one] == []


@pytest.mark.parametrize(("chapter", "scene"), SCENES)
def test_each_scene_asks_of_hosts_that_there_are(chapter, scene):
    assert scene.asks
    for ask in scene.asks:
        assert ask.times > 0
        assert ask.who in {host.name for host in VILLAGE}
        assert set(ask.served) <= set(SERVERS)


def test_an_ask_is_shown_as_it_is_typed():
    ask = Ask("http://web/", {"200": 2, "429": 1}, ("--header", "a: b"))
    assert str(ask) == "client: curl --header 'a: b' http://web/ (3 times)"
    assert str(Ask("http://web/", {"200": 1}, who="outside")) == "outside: curl http://web/"
