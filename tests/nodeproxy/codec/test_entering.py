"""Who calls from outside the mesh, as one node tells another: what is written is read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.entering import MOST, entering_fields, read_entering, told
from nodeproxy.errors import Refused
from policy.doors import Came
from policy.model import Identity

PLAIN = Came("192.0.2.9", "shop/front", port=40312)
FULL = Came(
    "2001:db8::9", "IngressClass edgemesh", ("till.example", "a;b=c"), 1, Identity("partners", "till"), "shop-1", "a1b2"
)


def read(value):
    return read_entering([(b":method", b"GET"), (b"x-edgemesh-entering", value)])


def test_what_it_looks_like():
    assert told(PLAIN) == b"for=192.0.2.9;port=40312;by=shop%2Ffront"
    assert entering_fields(None) == []
    assert read_entering([(b":method", b"GET")]) is None


@pytest.mark.parametrize("came", [PLAIN, FULL])
def test_what_is_written_is_read(came):
    assert read_entering(entering_fields(came)) == came


@given(st.lists(st.text(min_size=1), max_size=5), st.text(min_size=1))
def test_no_name_is_read_as_another_part(names, gateway):
    try:
        came = Came("192.0.2.9", gateway, tuple(names), 1)
        value = told(came)
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert len(value) <= MOST or len(gateway) > 100
    if len(value) <= MOST:
        found = read(value)
        assert (found.address, found.gateway, found.identity) == ("192.0.2.9", gateway, None)
        assert found.names == tuple(names)[: len(found.names)] or set(found.names) <= set(names)


def test_names_beyond_the_room_for_them_are_not_told():
    came = Came("192.0.2.9", "shop/front", ("a" * 2000, "b" * 100, "c" * 10), 1)
    assert read(told(came)).names == ("a" * 2000,)
    assert len(told(Came("192.0.2.9", "shop/front", ("\0" * 100_000,), 1))) < 100


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"for=192.0.2.9",
        b"for=192.0.2.9;port=1",
        b"for=192.0.2.9;by=shop%2Ffront",
        b"port=1;by=shop%2Ffront",
        b"for=store.example;port=1;by=shop%2Ffront",
        b"for=192.0.2.9;port=70000;by=shop%2Ffront",
        b"for=192.0.2.9;port=-1;by=shop%2Ffront",
        b"for=192.0.2.9;port=1;by=shop/front",
        b"for=192.0.2.9;port=1;by=shop%2ffront",
        b"for=192.0.2.9;port=1;port=1;by=shop%2Ffront",
        b"for=192.0.2.9;for=192.0.2.10;port=1;by=shop%2Ffront",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;",
        b"for=192.0.2.9; port=1;by=shop%2Ffront",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;more=1",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;name=",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;name=%FF",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;identity=shop",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;identity=shop%2Ftill%2Fx",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;identity=Shop%2Ftill",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;node=n1",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;identity=a%2Fb;serial=zz",
        b"for=192.0.2.9;port=1;by=shop%2Ffront;name=" + b"a" * MOST,
    ],
)
def test_whatever_else_is_refused(value):
    with pytest.raises(Refused) as refused:
        read(value)
    assert refused.value.flag == "not-a-gateway"


def test_two_of_them_are_refused():
    with pytest.raises(Refused):
        read_entering(entering_fields(PLAIN) * 2)
