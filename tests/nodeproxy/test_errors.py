"""The table of refusals is whole: every flag that is raised is in it, and every flag in it is raised somewhere."""

import re
from pathlib import Path

from nodeproxy.errors import FLAGS, Refused

_SOURCES = [path for path in Path(__file__).parents[2].joinpath("nodeproxy").rglob("*.py") if path.name != "errors.py"]


def test_every_flag_raised_is_in_the_table():
    raised = {flag for path in _SOURCES for flag in re.findall(r'Refused\(\s*"([a-z-]+)"', path.read_text())}
    assert raised <= set(FLAGS)
    assert len(raised) > 10


def test_every_flag_in_the_table_is_used():
    text = "\n".join(path.read_text() for path in _SOURCES)
    assert [flag for flag in FLAGS if f'"{flag}"' not in text] == []


def test_statuses_are_what_http_says():
    assert all(400 <= flag.status < 600 for flag in FLAGS.values())
    assert Refused("denied").status == 403


def test_a_refusal_reads_as_a_sentence():
    assert str(Refused("no-port", "a/b has 80, not 81")) == "no-port: the service has no such port: a/b has 80, not 81"
