"""What is captured stays closed to strangers when the statement that captured it is damaged, misspelt or gone; over restarts and a reboot too."""

import json
import signal
import subprocess
import sys

import pytest

from tests.netns.conftest import EDGEMESH, PATH, own, sh

HTML = "<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Welcome to the hotel's network</body></html>\n"


def file_of(lab):
    return lab.config / "workload-store.yaml"


def text_of(lab, kind="Workload", **spec):
    store = lab.host("store")
    given = {
        "serviceAccount": "store",
        "labels": {"app": "store"},
        "addresses": [store.v4, store.v6],
        "netns": store.name,
    }
    return json.dumps(own(kind, "store", {key: value for key, value in {**given, **spec}.items() if value is not None}))


def put(lab, text):
    new = lab.config / ".new"
    new.write_text(text)
    new.rename(file_of(lab))


def renamed_away(lab):
    file_of(lab).rename(lab.config / "workload-store.yaml.off")


DAMAGES = {
    "kind misspelt": lambda lab: put(lab, text_of(lab, "WorkLoad")),
    "a page of a captive portal": lambda lab: put(lab, HTML),
    "cut to nothing": lambda lab: file_of(lab).write_text(""),
    "broken off between two documents": lambda lab: put(lab, json.dumps(own("Workload", "other", {}))),
    "renamed away": renamed_away,
    "removed": lambda lab: file_of(lab).unlink(),
    "a namespace misspelt": lambda lab: put(lab, text_of(lab, netns="stroe")),
    "a node misspelt": lambda lab: put(lab, text_of(lab, node="stroe")),
    "the namespace is a unit": lambda lab: put(lab, text_of(lab, netns=None, systemdUnit="stroe.service")),
}


def admitted(lab):
    """Calls of strangers that got anything of the store."""
    store = lab.host("store")
    calls = [(name, address) for name in ("outsider", "thief") for address in (store.v4, f"[{store.v6}]")]
    answers = {(name, address): lab.host(name).curl(f"http://{address}/") for name, address in calls}
    return {call: answer for call, answer in answers.items() if answer.status == 200 or "store saw" in answer.body}


def reboot(lab):
    """The daemon dies, and every namespace is made anew under its name: no rule outlives that."""
    lab.down(signal.SIGKILL)
    for name in ("buyer", "thief", "store", "outsider"):
        host = lab.host(name)
        host.delete()
        sh("ip", "-n", lab.switch, "link", "del", f"{lab.prefix}p{host.number}", check=False)
        host.make()
    lab.http(lab.host("store"), 80)


def start(lab):
    """As Lab.up, for a node that is not whole."""
    log = (lab.folder / "daemon.log").open("ab")
    command = [*EDGEMESH, "run", "--config", str(lab.config), "--access-log", "all"]
    lab.daemon = subprocess.Popen(
        command, stdout=log, stderr=log, env={"PATH": PATH, "PYTHONPATH": sys.path[0] or "."}, cwd=lab.folder
    )
    log.close()
    lab.wait(lambda: looked(lab), "it has looked at everything")


def looked(lab):
    try:
        return lab.status()["state"] != "starting"
    except ConnectionError:
        return False


def told(lab):
    """What is told of the store; the lab's other manifests have their own warnings."""
    found = [item for item in lab.status()["problems"] if item["severity"] != "notice"]
    ours = [
        item
        for item in found
        if item["object"] in ("Workload lab/store", "WorkLoad lab/store")
        or item["file"].endswith("workload-store.yaml")
    ]
    return [f"{item['severity']}: {item['object']}: {item['message']}" for item in ours]


@pytest.fixture
def whole(lab):
    """Everything as it was, whatever a test left."""
    yield lab
    (lab.config / "workload-store.yaml.off").unlink(missing_ok=True)
    lab.workload(lab.host("store"))
    if lab.daemon.poll() is not None:
        start(lab)
    lab.wait(lambda: not admitted(lab), "it is captured again: the buyer is served by one that is open, too")
    lab.wait(lambda: lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200, "the buyer buys again")
    lab.wait(lambda: not told(lab), "nothing is told any more")


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_stranger_comes_in(whole, damage):
    lab = whole
    assert admitted(lab) == {}
    before = told(lab)
    assert before == []
    DAMAGES[damage](lab)
    lab.wait(lambda: told(lab), "somebody is told")
    lab.build()
    for _ in range(3):
        assert admitted(lab) == {}
    if "misspelt" not in damage and "unit" not in damage:
        assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200, (
            "nothing that worked is lost by it"
        )
    lab.down(signal.SIGKILL)
    assert admitted(lab) == {}
    start(lab)
    assert admitted(lab) == {}
    assert told(lab)


@pytest.mark.parametrize("damage", ["cut to nothing", "removed", "a namespace misspelt", "a page of a captive portal"])
def test_nor_after_a_reboot(whole, damage):
    lab = whole
    lab.wait((lab.folder / "state" / "places.json").exists, "what is captured is on the disk")
    DAMAGES[damage](lab)
    lab.wait(lambda: told(lab), "somebody is told")
    reboot(lab)
    assert lab.host("outsider").curl(f"http://{lab.host('store').v4}/").status == 200, (
        "no rule is left, so the test can fail"
    )
    start(lab)
    assert admitted(lab) == {}
    assert told(lab)


@pytest.mark.parametrize("damage", ["removed", "a namespace misspelt"])
def test_until_a_person_lets_go_of_it(whole, damage):
    lab = whole
    DAMAGES[damage](lab)
    lab.wait(lambda: told(lab), "somebody is told")
    lab.build()
    assert admitted(lab) == {}
    done = sh(*EDGEMESH, "release", "lab/store", "--socket", lab.socket)
    assert "released" in done.stdout
    lab.wait(lambda: lab.host("outsider").curl(f"http://{lab.host('store').v4}/").status == 200, "it is open")
    lab.down(signal.SIGKILL)
    start(lab)
    assert lab.host("outsider").curl(f"http://{lab.host('store').v4}/").status == 200, "and stays so"


def test_or_a_manifest_leaves_it_alone(whole):
    lab = whole
    put(lab, text_of(lab, enrolled=False))
    lab.wait(lambda: lab.host("outsider").curl(f"http://{lab.host('store').v4}/").status == 200, "it is open")
    assert told(lab) == []


def test_an_editor_that_writes_anew_and_renames_costs_no_call(whole):
    lab = whole
    for _ in range(5):
        backup = lab.config / "workload-store.yaml~"
        file_of(lab).rename(backup)
        file_of(lab).write_text(text_of(lab))
        backup.unlink()
        assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200
    assert told(lab) == []
