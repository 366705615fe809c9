"""The command: what it answers before anything is built, and the lock that keeps demos apart."""

from __future__ import annotations

import pytest

from agent.demo import apps, surroundings, walk
from agent.demo.surroundings import Unsuited


def test_an_application_is_run_instead(monkeypatch):
    seen = []
    monkeypatch.setattr(apps, "run", lambda words: seen.append(words) or 7)
    assert walk.main(None, False, ["bookstore", "port=0"]) == 7
    assert seen == [["bookstore", "port=0"]]


@pytest.mark.parametrize("step", [0, 10, -1])
def test_a_step_that_is_none_is_named(capsys, step):
    assert walk.main(step, False, None) == 2
    assert f"no step {step}" in capsys.readouterr().err


def test_a_number_of_nodes_that_is_none_is_named(capsys):
    assert walk.main(None, False, None, 3) == 2
    assert "not 3" in capsys.readouterr().err


def test_a_box_that_cannot_is_told_why(capsys, monkeypatch):
    def prepare(arguments):
        raise Unsuited(f"the demo needs curl: {arguments}")

    monkeypatch.setattr(surroundings, "prepare", prepare)
    monkeypatch.setattr(walk.signal, "signal", lambda *_: None)
    assert walk.main(4, True, None, 2) == 2
    assert "edgemesh demo: the demo needs curl: ['--step', '4', '--hold', '--nodes', '2']" in capsys.readouterr().err


def test_a_second_demo_is_refused(tmp_path):
    lock = tmp_path / "demo.lock"
    with walk._only_one(lock), pytest.raises(Unsuited, match="another demo"), walk._only_one(lock):
        pass
    assert not lock.exists()
    with pytest.raises(KeyboardInterrupt), walk._only_one(lock):
        assert lock.exists()
        raise KeyboardInterrupt
    assert not lock.exists()


def test_the_first_signal_ends_it_and_the_next_do_not_disturb(monkeypatch):
    handlers = {}
    monkeypatch.setattr(walk.signal, "signal", handlers.__setitem__)
    with pytest.raises(KeyboardInterrupt):
        walk._stop(15, None)
    assert handlers == dict.fromkeys((walk.signal.SIGINT, walk.signal.SIGTERM, walk.signal.SIGHUP), walk.signal.SIG_IGN)
