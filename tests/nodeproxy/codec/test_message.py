"""split_target: what is decided on is what is sent on."""

import functools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.message import (
    RequestHead,
    ResponseHead,
    Target,
    is_authority,
    split_target,
    travels_in_trailer,
)
from nodeproxy.errors import Refused

HIDDEN_DOTS = re.compile(r"(^|/)(\.|%2e){1,2}($|/|;|%3b)", re.IGNORECASE)


@pytest.mark.parametrize(
    ("target", "path", "sent"),
    [
        (b"/", "/", b"/"),
        (b"/books?a=1&b=/../%2f", "/books", b"/books?a=1&b=/../%2f"),
        (b"/a/./b/../c", "/a/c", b"/a/c"),
        (b"/..", "/", b"/"),
        (b"/.", "/", b"/"),
        (b"/a/..", "/", b"/"),
        (b"/a/.", "/a/", b"/a/"),
        (b"/../../etc", "/etc", b"/etc"),
        (b"/a//../b", "/a/b", b"/a/b"),
        (b"//", "//", b"//"),
        (b"//a;x/b;y=1", "//a;x/b;y=1", b"//a;x/b;y=1"),
        (b"/%7euser/%41", "/~user/A", b"/~user/A"),
        (b"/%e2%82%ac", "/%E2%82%AC", b"/%E2%82%AC"),
        (b"/%252e%252ex/", "/%252e%252ex/", b"/%252e%252ex/"),  # escaped twice: a name, as RFC 3986 section 2.4 has it
        (b"/100%2525/http%253A%252F%252Fh", "/100%2525/http%253A%252F%252Fh", b"/100%2525/http%253A%252F%252Fh"),
        (b"/a%20b/x..%20/", "/a%20b/x..%20/", b"/a%20b/x..%20/"),
        (b"/a;v=1/b;/;/%3B", "/a;v=1/b;/;/%3B", b"/a;v=1/b;/;/%3B"),
        (b"/..%20x/.%2520.y", "/..%20x/.%2520.y", b"/..%20x/.%2520.y"),
        (b"/...", "/...", b"/..."),
        (b"/.well-known/x", "/.well-known/x", b"/.well-known/x"),
        (b"/a.b/..c", "/a.b/..c", b"/a.b/..c"),
        (b"/a?", "/a", b"/a?"),
        (b"/[a]|b", "/[a]|b", b"/[a]|b"),
        (b"/a%2Epng", "/a.png", b"/a.png"),
        (b"/x/..?..", "/", b"/?.."),
    ],
)
def test_origin_form(target: bytes, path: str, sent: bytes) -> None:
    assert split_target(target) == Target(path, sent, b"")


@pytest.mark.parametrize(
    ("target", "path", "others"),
    [
        (b"/a%2fb", "/a%2Fb", ("/a/b",)),
        (b"/api/queues/%2F/work?x=%2f", "/api/queues/%2F/work", ("/api/queues///work", "/api/queues/work")),
        (b"/@scope%2Fname", "/@scope%2Fname", ("/@scope/name",)),
        (b"/a%252Fb", "/a%252Fb", ()),  # nothing but a name, to whoever decodes once
        (b"/a/b?c%2Fd", "/a/b", ()),
    ],
)
def test_an_encoded_slash_is_sent_on_and_both_readings_are_told(
    target: bytes, path: str, others: tuple[str, ...]
) -> None:
    found = split_target(target)
    assert (found.path, found.others) == (path, others)
    assert found.sent.partition(b"?")[0].decode() == path


@pytest.mark.parametrize(
    "target",
    [
        b"/a/..%2fb",
        b"/a%2F..",
        b"/a%2f.%2Fb",
        b"/%252e%252e/",
        b"/a/.%25252e/b",
        b"/a/..%20",
        b"/a/..%09/b",
        b"/a/%20../b",
        b"/a/..%2500/b",
        b"/a/..%2500x/b",
        b"/a/..%3Fx",
        b"/a/..%253bx/b",
        b"/a/..%252fb",
        b"/a/..%255cb",
        b"/a/%25%2532e%2e/b",
        functools.reduce(
            lambda inner, _: inner.replace(b"%", b"%252%2535"), range(9), b"/%2eb"
        ),  # decoded again and again
        b"/a%5cb",
        b"/a\\b",
        b"/a%00",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/a%4%41",
        b"/a#b",
        b"/a?b#c",
        b"/%2e%2e/a",
        b"/a/%2E./b",
        b"/a/.%2e",
        b"/a/%2e",
        b"/a/..;x/b",
        b"/a/..;",
        b"/a/.;x",
        b"/a/%2e%2e;x",
        b"/a/..%3bx",
        b"/a b",
        b"/a\x7f",
        b"/caf\xe9",
        b"/a?\xe9",
        b"/a?b c",
        b"/a\n",
        b"/%0",
        b"/%\n1",
    ],
)
def test_bad_path(target: bytes) -> None:
    with pytest.raises(Refused) as caught:
        split_target(target)
    assert caught.value.flag == "bad-path"
    assert caught.value.detail


def test_a_long_path_is_refused_before_anything_looks_at_it() -> None:
    assert split_target(b"/" + b"a" * 9, path_bytes=10).path == "/" + "a" * 9
    for target in (b"/" + b"a" * 10, b"/" + b"%" * 10, b"http://h/" + b"a" * 10):
        with pytest.raises(Refused) as caught:
            split_target(target, path_bytes=10)
        assert caught.value.flag == "path-too-long"
    # The limit is on the path alone; the head limit bounds the query.
    assert split_target(b"/a?" + b"q" * 99, path_bytes=10).path == "/a"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://shop/a/../b?q", Target("/b", b"/b?q", b"shop")),
        (b"HTTP://shop:8080", Target("/", b"/", b"shop:8080")),
        (b"https://[::1]:8/x", Target("/x", b"/x", b"[::1]:8")),
        (b"http://shop?q", Target("/", b"/?q", b"shop")),
    ],
)
def test_absolute_form(target: bytes, expected: Target) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize(
    "target",
    [b"http:///a", b"http://u@h/", b"ftp://h/", b"a/b", b"http://h:x/", b"http://h\\x/", b"http:/h/", b"", b"?a"],
)
def test_targets_of_no_form(target: bytes) -> None:
    with pytest.raises(Refused) as caught:
        split_target(target)
    assert caught.value.flag == "bad-request"


def test_asterisk_and_authority_forms_belong_to_their_methods() -> None:
    assert split_target(b"*", b"OPTIONS") == Target("*", b"*", b"")
    assert split_target(b"http://shop", b"OPTIONS") == Target("*", b"*", b"shop")
    assert split_target(b"http://shop/", b"OPTIONS") == Target("/", b"/", b"shop")
    assert split_target(b"db:5432", b"CONNECT") == Target("", b"db:5432", b"db:5432")
    for target, method in (
        (b"*", b"GET"),
        (b"db:5432", b"GET"),
        (b"/a", b"CONNECT"),
        (b"db", b"CONNECT"),
        (b"db:", b"CONNECT"),
    ):
        with pytest.raises(Refused) as caught:
            split_target(target, method)
        assert caught.value.flag == "bad-request"


def test_authority() -> None:
    for good in (b"shop", b"shop.ns:80", b"10.0.0.1", b"[fe80::1]", b"[::1]:80", b"a_b"):
        assert is_authority(good), good
    for bad in (b"", b"a b", b"a/b", b"u@h", b"h:http", b"[::1", b"a,\x00", b"h:123456", b"h\n"):
        assert not is_authority(bad), bad


def test_trailers_cannot_change_framing_or_speak_for_us() -> None:
    assert travels_in_trailer(b"grpc-status")
    for name in (b"content-length", b"transfer-encoding", b"host", b"connection", b"x-edgemesh-reason"):
        assert not travels_in_trailer(name)


# Text that is likely to hit something: escapes of the interesting characters and half escapes, between separators.
pieces = st.sampled_from(
    [
        b"/",
        b".",
        b"..",
        b"%2e",
        b"%2E",
        b"%41",
        b"%2f",
        b"%5c",
        b"%25",
        b"%",
        b";",
        b"%3b",
        b"?",
        b"#",
        b"a",
        b"\\",
        b"~",
        b"%C3",
    ]
)
targets = st.one_of(st.binary(max_size=60), st.lists(pieces, max_size=14).map(b"".join)).map(lambda tail: b"/" + tail)


@given(targets)
def test_normalising_twice_changes_nothing_and_leaves_no_dot_segment(target: bytes) -> None:
    try:
        first = split_target(target)
    except Refused as refused:
        assert refused.flag == "bad-path"
        return
    assert split_target(first.sent) == first
    assert first.sent.partition(b"?")[0] == first.path.encode()
    assert first.sent.partition(b"?")[2] == target.partition(b"?")[2]
    assert not HIDDEN_DOTS.search(first.path)
    assert first.path.startswith("/")
    assert not re.search(r"[\\#\s]|%5c|%00", first.path, re.IGNORECASE)
    assert bool(first.others) == ("%2F" in first.path)
    assert not any(HIDDEN_DOTS.search(other) or "%2F" in other for other in first.others)


@given(st.binary(max_size=80), st.sampled_from([b"GET", b"OPTIONS", b"CONNECT"]))
def test_any_bytes_are_split_or_refused(target: bytes, method: bytes) -> None:
    try:
        assert isinstance(split_target(target, method), Target)
    except Refused as refused:
        assert refused.flag in ("bad-path", "bad-request")


def test_a_field_is_set_and_removed_in_every_spelling_and_those_that_came_are_kept() -> None:
    head = RequestHead(b"GET", b"/", 1)
    head.fields = came = [(b"x-a", b"1"), (b"accept", b"*/*"), (b"x-a", b"2")]
    head.lines = [b"X-A: 1", b"Accept:*/*", b"x-a:2"]
    head.set_field(b"x-b", b"3")
    head.remove_field(b"x-a")
    assert head.fields == [(b"accept", b"*/*"), (b"x-b", b"3")]
    assert head.lines == [b"Accept:*/*", b"x-b: 3"]
    assert came == [(b"x-a", b"1"), (b"accept", b"*/*"), (b"x-a", b"2")]
    response = ResponseHead(200, b"OK", 1)
    response.lines = [b"X-A: 1", b"Server: s", b"x-a:2"]
    response.set_field(b"server", b"")
    response.remove_field(b"x-a")
    assert response.lines == [b"server: "]


@pytest.mark.parametrize("name", [b"host", b"te", b"x-edgemesh-reason", b"X-A", b"a b", b""])
def test_what_is_not_to_be_set_is_not_to_be_removed(name: bytes) -> None:
    for head in (RequestHead(b"GET", b"/", 1), ResponseHead(200, b"OK", 1)):
        with pytest.raises(ValueError, match="field"):
            head.remove_field(name)
