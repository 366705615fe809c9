"""The stand-in of each part that a node may lack has all of its interface."""

import inspect

import pytest

from nodeproxy.interfaces import FastPath, NoFastPath, NoPeers, PeerPool
from tests.nodeproxy.conftest import E2


async def test_without_a_fast_path_everything_is_left_to_python(context, connect):
    fast = context.fast
    assert isinstance(fast, NoFastPath)
    assert await fast.relay(connect().stream, connect().stream, 60, None) is None
    assert await fast.accept_tls(connect().stream, None, None, 5, lambda: 0.0) is None
    assert await fast.connect_tls(connect().stream, None, None, (), 5, lambda: 0.0) is None
    assert (
        fast.lease(connect(), object())
        is fast.resting(("", "", E2))
        is fast.transport(object(), context.h2_bounds)
        is None
    )
    assert (fast.recheck(), fast.under_way, list(fast.calls())) == (0, 0, [])
    assert tuple(fast.stats()) == (False, 0, 0)


@pytest.mark.parametrize(("none", "interface"), [(NoFastPath, FastPath), (NoPeers, PeerPool)])
def test_it_does_nothing_about_everything_that_there_is(none, interface):
    def asked(kind):
        return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} | set(
            vars(kind).get("__annotations__", {})
        )

    assert asked(none) == asked(interface)
