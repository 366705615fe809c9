"""change_target.py: what the server gets in the place of a path or Host, and where a redirect sends the caller."""

from __future__ import annotations

import pytest

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead
from nodeproxy.protocols.http.change_target import Redirects, Rewrites
from policy.route import PathChange, Redirect, Rewrite
from tests.nodeproxy.protocols.http.conftest import OK, House, answering


def head(target: bytes = b"/a/b?c=d", host: bytes = b"stock:8080") -> RequestHead:
    made = RequestHead(b"GET", target, 1)
    made.host = host
    return made


@pytest.mark.parametrize(
    ("config", "target", "host"),
    [
        (Rewrite(), b"/a/b?c=d", b"stock:8080"),
        (Rewrite(host="b.example"), b"/a/b?c=d", b"b.example"),
        (Rewrite(PathChange("/x")), b"/x?c=d", b"stock:8080"),
        (Rewrite(PathChange("/x", "/a")), b"/x/b?c=d", b"stock:8080"),
        (Rewrite(PathChange("", "/a")), b"/b?c=d", b"stock:8080"),
    ],
)
async def test_what_is_sent(config: Rewrite, target: bytes, host: bytes) -> None:
    asked = head()
    await Rewrites(config).request(asked)
    assert (asked.target, asked.host) == (target, host)
    star = head(b"*")
    await Rewrites(config).request(star)
    assert star.target == b"*"


@pytest.mark.parametrize(
    ("config", "host", "location"),
    [
        (Redirect(), b"stock:8080", b"http://stock:8080/a/b?c=d"),
        (Redirect(), b"stock:80", b"http://stock/a/b?c=d"),
        (Redirect(), b"stock", b"http://stock/a/b?c=d"),
        (Redirect(), b"[fd00::1]", b"http://[fd00::1]/a/b?c=d"),
        (Redirect(), b"[fd00::1]:81", b"http://[fd00::1]:81/a/b?c=d"),
        (Redirect(host="b.example"), b"stock:8080", b"http://b.example:8080/a/b?c=d"),
        (Redirect(scheme="https"), b"stock:8080", b"https://stock/a/b?c=d"),
        (Redirect(scheme="https", port=443), b"stock", b"https://stock/a/b?c=d"),
        (Redirect(scheme="https", port=8443), b"stock", b"https://stock:8443/a/b?c=d"),
        (Redirect(port=81), b"stock:8080", b"http://stock:81/a/b?c=d"),
        (Redirect(port=80), b"stock:8080", b"http://stock/a/b?c=d"),
        (Redirect(301, path=PathChange("/x")), b"stock", b"http://stock/x?c=d"),
        (Redirect(308, path=PathChange("/x", "/a")), b"stock", b"http://stock/x/b?c=d"),
    ],
)
async def test_where_a_redirect_sends_the_caller(config: Redirect, host: bytes, location: bytes) -> None:
    with pytest.raises(Answered) as told:
        await Redirects(config).request(head(host=host))
    assert (told.value.status, told.value.fields) == (config.status, [(b"location", location)])


async def test_policy_judges_what_is_sent(house: House) -> None:
    seen: list[bytes] = []
    house.servers = [answering(OK, seen=seen)]
    house.route.filters = (Rewrite(PathChange("/x", "/a"), "b.example"),)
    house.connect()
    assert (await house.request(target="/a/./b%41?c=d"))[0] == 200
    assert seen[0].split(b"\r\n")[:2] == [b"GET /x/bA?c=d HTTP/1.1", b"host: b.example"]
    (asked,), (judged,) = house.route.requests, house.route.judged
    assert (asked.path, asked.header("host")) == ("/a/bA", "store")
    assert (judged.path, judged.target, judged.header("host")) == ("/x/bA", b"/x/bA?c=d", "b.example")
    assert [record.path for record in house.records] == ["/a/bA"], "what the caller asked for"


async def test_a_path_that_is_too_long_in_the_end_is_refused(house: House) -> None:
    house.route.filters = (Rewrite(PathChange("/" + "x" * 9000)),)
    house.connect()
    assert (await house.request())[0] == 414
    assert not house.dialled
