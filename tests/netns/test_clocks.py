"""All clocks of a site are set while it runs, or are wrong when it boots, forward and back, with the authority there and away: it heals by itself."""

from __future__ import annotations

import time

import pytest

from agent.admin.client import get
from tests.netns import clocks
from tests.netns.clocks import needs_source
from tests.netns.two_nodes import TwoNodes

__all__ = ("needs_source",)  # a fixture

DAY = 86400.0
MINUTE = 60


class Site(TwoNodes):
    """Certificates live for fourteen days, as everywhere; each daemon has a clock that can be set."""

    def __init__(self, folder, octet):
        super().__init__(folder, octet)
        self.settings = {"peers": {"keepalive": 1.0, "answer": 2.0}, "limits": {"connectTimeout": 2.0}}

    def enrol(self):
        for node in self.nodes.values():
            node.more = clocks.environment(node.home)
        super().enrol()

    def set_off(self, days):
        for node in self.nodes.values():
            clocks.set_off(node.home, days * DAY)

    def healed(self, off):
        """All have one time, the one that was set unless the authority did not exist then, and what they hold is valid by it."""
        documents = [get(node.socket, "/certs") for node in self.nodes.values()]
        nows = [document["clock"]["now"] for document in documents]
        if max(nows) - min(nows) > 30 or (off >= 0 and abs(nows[0] - time.time() - off * DAY) > 30):
            return False
        held = [
            (one, document["clock"]["now"])
            for document in documents
            for one in document["certificates"]
            if one["wanted"]
        ]
        return (
            all(one["state"] == "fresh" and one["not_before"] <= now < one["not_after"] for one, now in held)
            and self.works()
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory, request):
    request.getfixturevalue("needs_source")
    site = Site(tmp_path_factory.mktemp("clocks"), 85)
    try:
        yield site.enter()
    finally:
        site.close()


@pytest.mark.parametrize("days", [1, -1, 7, -7, 20, -20, 400, -400])
def test_all_clocks_are_set_and_set_right_again(site, days):
    for off in (days, 0):
        site.set_off(off)
        site.wait(lambda off=off: site.healed(off), f"it heals after clocks were set by {off} days", MINUTE)


@pytest.mark.parametrize("days", [20, -20])
def test_clocks_are_set_while_the_authority_is_away(site, days):
    hub = site.nodes["hub"]
    hub.kill()
    try:
        site.set_off(days)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            assert site.works()
            time.sleep(0.5)
    finally:
        hub.up()
    site.wait(lambda: site.healed(days), "it heals when the authority is back", 2 * MINUTE)
    site.set_off(0)
    site.wait(lambda: site.healed(0), "it heals", MINUTE)


@pytest.mark.parametrize("days", [20, 400, -400])
def test_all_boxes_boot_with_a_wrong_clock_that_is_set_later(site, days):
    """Off for longer than certificates live, or without a clock battery; state is kept, and nobody types a token."""
    for node in site.nodes.values():
        node.kill()
    site.set_off(days)
    for node in site.nodes.values():
        node.begin()
    site.wait(lambda: all(node.ready() for node in site.nodes.values()), "all are ready", MINUTE)
    site.wait(site.works, "calls pass", MINUTE)
    site.set_off(0)
    site.wait(lambda: site.healed(0), "it heals when clocks are set", MINUTE)
