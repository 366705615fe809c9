"""cors.py: origins and their patterns, and what is told to each; over sockets: journeys/test_cors.py."""

from __future__ import annotations

import pytest

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead
from nodeproxy.protocols.http.cors import Shares
from policy.route import Cors


async def told(config: Cors, origin: bytes, *fields: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    head = RequestHead(b"OPTIONS", b"/", 1)
    head.fields = [(b"origin", origin), (b"access-control-request-method", b"PUT"), *fields]
    with pytest.raises(Answered) as caught:
        await Shares(config).request(head)
    assert caught.value.status == 204
    return dict(caught.value.fields)


@pytest.mark.parametrize(
    ("allowed", "fits", "fits_not"),
    [
        ("https://a.b", [b"https://a.b", b"https://A.b", b"https://a.b:443"], [b"http://a.b", b"https://a.b:444"]),
        ("http://a.b:81", [b"http://a.b:81"], [b"http://a.b", b"http://a.b:8", b"https://a.b:81"]),
        (
            "https://*.b",
            [b"https://a.b", b"https://a.a.b", b"https://-.b"],
            [b"https://b", b"https://.b", b"https://ab"],
        ),
        ("https://*", [b"https://a.b", b"https://[::1]"], [b"http://a.b", b"https://a:1", b"https://"]),
        (
            "https://a.b",
            [],
            [
                b"null",
                b"a.b",
                b"https://a.b/",
                b"https://x@a.b",
                b"https://a.b:x",
                b"https://a.b\xff",
                b"https://a.b, x",
            ],
        ),
    ],
)
async def test_which_origins_fit(allowed: str, fits: list[bytes], fits_not: list[bytes]) -> None:
    for origin in fits:
        assert (await told(Cors((allowed,)), origin))[b"access-control-allow-origin"] == origin
    for origin in fits_not:
        found = await told(Cors((allowed,)), origin)
        assert list(found) == [b"vary"], origin


async def test_a_field_that_comes_twice_or_is_too_long_is_none() -> None:
    head = RequestHead(b"OPTIONS", b"/", 1)
    head.fields = [(b"origin", b"https://a"), (b"origin", b"https://b"), (b"access-control-request-method", b"PUT")]
    await Shares(Cors(("*",))).request(head)
    found = await told(Cors(("*",), credentials=True), b"https://" + b"a" * 2000)
    assert list(found) == [b"vary"]


async def test_with_credentials_no_wildcard_is_told() -> None:
    config = Cors(("*",), ("*",), ("*",), ("*",), True)
    found = await told(config, b"https://a")
    assert b"*" not in b"".join(value for name, value in found.items())
    assert b"access-control-allow-headers" not in found, "none was asked for"
