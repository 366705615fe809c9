"""release: what a person is told when something is let go of, and when there is nothing."""

from argparse import Namespace

import pytest

from agent.admin import client
from agent.commands import NO, OK, UNREACHABLE, release


@pytest.mark.parametrize(
    ("comes", "code", "out", "err"),
    [
        (
            {"released": ["shop/stock", "netns /run/netns/stock"]},
            OK,
            "released shop/stock\nreleased netns /run/netns/stock\n",
            "",
        ),
        (
            client.Answered(404, "nothing is kept under the name 'x'", "edgemesh status lists"),
            NO,
            "",
            "nothing is kept",
        ),
        (client.NotRunning("edgemesh is not running"), UNREACHABLE, "", "not running"),
    ],
)
def test_it_says_what_came_of_it(monkeypatch, capsys, comes, code, out, err):
    asked = []

    def post(socket, path, query):
        asked.append((socket, path, query))
        if isinstance(comes, Exception):
            raise comes
        return comes

    monkeypatch.setattr(client, "post", post)
    assert release.run(Namespace(name="shop/stock", socket="/s")) == code
    assert asked == [("/s", "/release", [("name", "shop/stock")])]
    said = capsys.readouterr()
    assert said.out == out
    assert err in said.err
