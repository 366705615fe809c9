import pytest

from agent.config.schema import NodeConfig
from agent.kernel import capture as ground
from agent.kernel import places
from tests.agent.kernel.fake_places import Copy, FakePlace


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A CaptureManager over a folder of files; `world.heard` is what the proxy was told."""
    monkeypatch.setattr(ground.cgroup, "own", lambda name, predecessor=0: None)
    monkeypatch.setattr(ground.cgroup, "enter_nodes", lambda: "")
    monkeypatch.setattr(ground.netns, "may_enter", lambda: True)
    monkeypatch.setattr(places, "CapturedNamespace", FakePlace)
    monkeypatch.setattr(
        ground, "NodeProber", lambda config, kept, outside, kubernetes: None
    )  # its tables would be the test machine's
    monkeypatch.setattr(ground.netns, "FOLDER", str(tmp_path))
    monkeypatch.setattr(ground.netns, "is_namespace", lambda path: bool(ground.netns.identity(path)))
    monkeypatch.setattr(FakePlace, "made", [])
    monkeypatch.setattr(FakePlace, "refuse", {})
    monkeypatch.setattr(Copy, "closed", [])
    found = ground.CaptureManager(NodeConfig(node="here"))
    found.heard = []
    found.serve(lambda w, _: found.heard.append(f"+{w.name}"), lambda key: found.heard.append(f"-{key}"))
    found.folder = tmp_path
    return found
