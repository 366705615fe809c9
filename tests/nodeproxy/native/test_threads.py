"""A lane belongs to one thread. What dies in another one while that works without the GIL is freed when the turn is over."""

import os
import threading

import pytest

from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import Place

pytestmark = needs_lane

SECOND = 1_000_000


@pytest.fixture
def call():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_what_dies_in_another_thread_during_a_turn(call):
    """A relay whose handle is gone would end at once, and this one still passes bytes while the turn goes on."""
    read, write = call
    begun, made, heard = threading.Event(), [], []

    def owner():
        place = Place()
        (left, left_far), (right, right_far) = place.pair(), place.pair()
        made.extend([place.lane.relay(1, left_far.fileno(), right_far.fileno(), b"", b"", 300.0), place.lane.target()])
        begun.left, begun.right = left, right
        begun.set()
        place.lane.stay(60 * SECOND, 60 * SECOND, SECOND, read)
        heard.append(place.lane.stats["relays"])
        place.close()
        for one in (left, left_far, right, right_far):
            one.close()

    thread = threading.Thread(target=owner)
    thread.start()
    try:
        assert begun.wait(30)
        begun.right.settimeout(30)
        begun.left.sendall(b"before")
        assert begun.right.recv(100) == b"before", "the turn is under way"
        made.clear()
        begun.left.sendall(b"after")
        assert begun.right.recv(100) == b"after"
    finally:
        os.write(write, b"x")
        thread.join(30)
    assert heard == [0], "freed by its owner when the turn was over"
