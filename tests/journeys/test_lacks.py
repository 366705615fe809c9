"""The kernel has none just now: each call of the proxy's tasks fails once (listeners, names, connections), and what comes next is served."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket

import dns.message
import pytest
import trio
import trio.testing

from nodeproxy import housekeeping
from nodeproxy.backoff import Backoff
from nodeproxy.dns import resolver
from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.agent.lacks import Lacks
from tests.journeys.conftest import LANES, Mesh
from tests.journeys.stand_ins import bound

NUMBERS = (errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EINTR, errno.ENFILE, errno.ENOBUFS)
NAME = "bookstore-v1.bookstore"
SEEN = {"_accept", "recvmsg", "sendmsg", "connect", "recv", "setsockopt", "getsockname"}


async def name(mesh):
    """A question by UDP and one by TCP."""
    query = dns.message.make_query(NAME, "A")
    with trio.socket.from_stdlib_socket(bound(mesh.addresses["buyer"], socket.SOCK_DGRAM)) as sock:
        await sock.connect(mesh.dns["buyer"])
        await sock.send(query.to_wire())
        with trio.fail_after(0.5):
            assert dns.message.from_wire(await sock.recv(4096)).answer


async def call(mesh):
    caller = await mesh.call("buyer", NAME)
    try:
        with trio.fail_after(2):
            for _ in range(3):
                assert (await caller.get("/books")).status == 200
    finally:
        caller.stream.socket.close()


async def live(monkeypatch, lane, lacks):
    """A mesh that is called and asked while one call of the kernel fails, and again afterwards: then all is well."""
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(), lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        monkeypatch.setattr(resolver, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        mesh.web("store-v1")
        with lacks():
            for step in (call, name, call):
                # This one may be refused; what it is told is another test's affair.
                with contextlib.suppress(Exception):
                    await step(mesh)
        with trio.fail_after(10):
            while True:
                try:
                    await name(mesh)
                    await call(mesh)
                    break
                except (OSError, trio.TooSlowError, trio.BrokenResourceError):
                    await trio.sleep(0.05)
        assert mesh.proxy._nursery is not None
        nursery.cancel_scope.cancel()
    mesh.close()


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES, ids=["slow lane", "native lane"])
async def test_no_lack_of_the_kernels_closes_a_door(monkeypatch, caplog, lane):
    monkeypatch.setattr(housekeeping, "_PAUSE", Backoff(0.02, 60.0))
    whole = Lacks()
    await live(monkeypatch, lane, whole)
    places = sorted(place for place in whole.seen if "nodeproxy" in place.file)  # others are the stand-ins'
    assert {place.function for place in places} >= SEEN, places
    ended = []
    for place, lack in zip(places, itertools.cycle(NUMBERS), strict=False):
        lacks = Lacks(place, lack)
        try:
            await live(monkeypatch, lane, lacks)
        except (Exception, BaseExceptionGroup) as error:
            ended.append(f"{place} {os.strerror(lack)}: {error!r}")
    assert not ended, "\n".join(ended)
    assert "the doors of" not in caplog.text
