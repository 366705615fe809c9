"""split_target: what is decided on is what is sent on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.errors import Refused
from nodeproxy.http.message import Target, is_authority, split_target, travels_in_trailer

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
        (b"/%252e%252e/", "/%252e%252e/", b"/%252e%252e/"),
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
    "target",
    [
        b"/a%2fb",
        b"/a%2Fb",
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
    "target", [b"http:///a", b"http://u@h/", b"ftp://h/", b"a/b", b"http://h:x/", b"http://h\\x/", b"http:/h/", b"", b"?a"]
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
    for target, method in ((b"*", b"GET"), (b"db:5432", b"GET"), (b"/a", b"CONNECT"), (b"db", b"CONNECT"), (b"db:", b"CONNECT")):
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
    [b"/", b".", b"..", b"%2e", b"%2E", b"%41", b"%2f", b"%5c", b"%25", b"%", b";", b"%3b", b"?", b"#", b"a", b"\\", b"~", b"%C3"]
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
    assert not re.search(r"[\\#\s]|%2f|%5c|%00", first.path, re.IGNORECASE)


@given(st.binary(max_size=80), st.sampled_from([b"GET", b"OPTIONS", b"CONNECT"]))
def test_any_bytes_are_split_or_refused(target: bytes, method: bytes) -> None:
    try:
        assert isinstance(split_target(target, method), Target)
    except Refused as refused:
        assert refused.flag in ("bad-path", "bad-request")
