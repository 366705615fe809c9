"""policy/balancing.py: what is hashed of a call, and how it is told."""

import pytest

from policy.balancing import Balancing, balancing_words

FIELDS = [(b"x-user", b"ann"), (b"cookie", b"a=1; sid=one; sid=two"), (b"x-user", b"bob"), (b"cookie", b"late=3")]


@pytest.mark.parametrize(
    ("how", "key"),
    [
        ({"header": "x-user"}, b"ann, bob"),
        ({"header": "x-other"}, None),
        ({"cookie": "sid"}, b"one"),
        ({"cookie": "late"}, b"3"),
        ({"cookie": "si"}, None),
        ({"cookie": "SID"}, None),
        ({"address": True}, b"10.0.0.1"),
    ],
)
def test_what_is_hashed_of_a_request(how, key):
    assert Balancing("b", "maglev", **how).key(FIELDS, "10.0.0.1") == key


@pytest.mark.parametrize("value", [b"", b";;;", b"sid", b" ; sid ;", b"=sid", b"x=sid=1", b"sid" * 9000, b";" * 30000])
def test_a_cookie_field_without_that_cookie(value):
    assert Balancing("b", "maglev", cookie="sid").key([(b"cookie", value)], "10.0.0.1") is None


def test_an_empty_value_is_a_value():
    assert Balancing("b", "maglev", cookie="sid").key([(b"cookie", b"sid=")], "") == b""
    assert Balancing("b", "maglev", header="x").key([(b"x", b"")], "") == b""


def test_an_opaque_stream_has_an_address_alone():
    assert Balancing("b", "maglev", header="x").key(None, "10.0.0.1") is None
    assert Balancing("b", "maglev", cookie="x").key(None, "10.0.0.1") is None
    assert Balancing("b", "maglev", address=True).key(None, "10.0.0.1") == b"10.0.0.1"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Balancing("b", "least-request"), "b: calls go to the endpoint with less under way, of two that are chosen by chance"),
        (Balancing("b", "round-robin"), "b: each call goes to the next endpoint in turn"),
        (Balancing("b", "ring-hash", header="x"), "b: calls go to an endpoint by a hash ring of field x"),
        (Balancing("b", "maglev", cookie="x"), "b: calls go to an endpoint by a Maglev table of cookie x"),
        (Balancing("b", "maglev", address=True), "b: calls go to an endpoint by a Maglev table of the caller's address"),
    ],
)  # fmt: skip
def test_words(how, words):
    assert balancing_words(how) == words
