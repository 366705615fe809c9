"""ClientHello: what real clients send, whole and byte by byte, and everything that is none."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.codec.client_hello import MOST, TLS12, TLS13, Hello, alert, read_hello


def real(sni=None, alpn=(), most=ssl.TLSVersion.TLSv1_3, least=ssl.TLSVersion.TLSv1_2):
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version, context.maximum_version = least, most
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=sni).do_handshake()
    return out.read()


def block(size, data):
    return len(data).to_bytes(size) + data


def extension(kind, data):
    return kind.to_bytes(2) + block(2, data)


def message(*extensions, version=TLS12, tail=b""):
    body = version.to_bytes(2) + bytes(32) + block(1, b"") + block(2, b"\x13\x01") + block(1, b"\0")
    if extensions:
        body += block(2, b"".join(extensions))
    return b"\1" + block(3, body + tail)


def record(data, version=b"\x03\x01"):
    return b"\x16" + version + block(2, data)


def names(*pairs):
    return extension(0, block(2, b"".join(bytes((kind,)) + block(2, name) for kind, name in pairs)))


def protocols(*found):
    return extension(16, block(2, b"".join(block(1, one) for one in found)))


VERSIONS = extension(43, block(1, b"\x03\x04\x03\x03"))


# real ones


@pytest.mark.parametrize(
    ("how", "hello"),
    [
        ({}, Hello("", (), (TLS13, TLS12))),
        ({"sni": "Shop.Example"}, Hello("shop.example", (), (TLS13, TLS12))),
        ({"alpn": ["edgemesh-h2", "h2"]}, Hello("", ("edgemesh-h2", "h2"), (TLS13, TLS12))),
        ({"sni": "a.b", "alpn": ["http/1.1"], "least": ssl.TLSVersion.TLSv1_3}, Hello("a.b", ("http/1.1",), (TLS13,))),
        ({"most": ssl.TLSVersion.TLSv1_2}, Hello("", (), (TLS12,))),
    ],
)
def test_what_openssl_sends(how, hello):
    data = real(**how)
    assert read_hello(data) == hello
    assert read_hello(data + record(b"early data follows", b"\x03\x03")) == hello
    for end in range(len(data)):
        assert read_hello(data[:end]) is None, end
    assert hello.tls13 == (TLS13 in hello.versions)


def test_it_may_come_in_many_records():
    whole = real("shop.example")[5:]
    data = b"".join(record(whole[at : at + 20]) for at in range(0, len(whole), 20))
    for end in range(len(data)):
        assert read_hello(data[:end]) is None
    assert read_hello(data).sni == "shop.example"


def test_without_extensions_the_version_is_that_of_the_message():
    assert read_hello(record(message(version=0x0301))) == Hello("", (), (0x0301,))
    assert read_hello(record(message(VERSIONS))) == Hello("", (), (TLS13, TLS12))


def test_names_of_other_types_are_not_the_host():
    assert read_hello(record(message(names((7, b"\xff"), (0, b"shop"))))).sni == "shop"


# none


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSL 2.0
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\x40\x01",  # one that is too long
        record(b"\2" + bytes(40)),  # a ServerHello
        record(b"\1" + bytes(2))[:5] + b"\0",
        record(message(VERSIONS)[:20]) + b"\x17\x03\x03\x00\x01a",  # something else between its records
        record(message(VERSIONS) + b"\x0b"),
        record(message(VERSIONS, tail=b"x")),
        record(message(VERSIONS, VERSIONS)),
        record(message(extension(43, block(1, b"\x03\x04") + b"x"))),
        record(message(extension(43, block(1, b"\x03")))),
        record(message(b"\0")),
        record(message(extension(0, block(2, b"\0" + block(2, b"a"))[:-1]))),
        record(message(names((0, b"a"), (0, b"b")))),
        record(message(names((0, b"a\0b")))),
        record(message(names((0, b"a b")))),
        record(message(names((0, b"sh\xc3\xb6p")))),
        record(message(names((0, b"a" * 255)))),
        record(message(names((0, b"-a")))),
        record(message(protocols(b"h2", b""))),
        record(message()[:-1] + b"\0\0"),
        record(b"\1\0\0\0"),
    ],
)
def test_what_is_no_client_hello(data):
    with pytest.raises(ValueError, match=r"\w"):
        read_hello(data)


def test_it_is_refused_by_the_length_that_it_claims():
    with pytest.raises(ValueError, match="are allowed"):
        read_hello(b"\x16\x03\x01\x40\x00\x01" + MOST.to_bytes(3))


def test_tiny_records_do_not_make_it_endless():
    data = record(b"\1\0\x20\0") + b"".join(record(b"\0") for _ in range(31))
    assert read_hello(data) is None
    with pytest.raises(ValueError, match="more than 32 records"):
        read_hello(data + b"\x16")


def test_it_is_not_waited_for_beyond_the_bound():
    data = b"\x16\x03\x01\x40\x00\1\0\x3f\xfc" + bytes(MOST)
    assert read_hello(data[: MOST - 1]) is None
    with pytest.raises(ValueError, match="no whole ClientHello"):
        read_hello(data[:MOST])


def test_an_alert_is_a_record():
    assert alert(120) == b"\x15\x03\x03\x00\x02\x02\x78"


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(data):
    for head in (b"", b"\x16\x03\x01", b"\x16\x03\x01" + block(2, data)[:2]):
        try:
            found = read_hello(head + data)
        except ValueError:
            continue
        assert found is None or isinstance(found, Hello)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_damage_gets_an_answer(at, what):
    data = bytearray(record(message(names((0, b"shop")), protocols(b"h2"), VERSIONS)))
    data[at : at + len(what)] = what
    try:
        found = read_hello(data)
    except ValueError:
        return
    assert found is None or isinstance(found, Hello)


def test_an_encrypted_hello_inside_is_noticed():
    assert read_hello(record(message(extension(0xFE0D, bytes(9))))).ech
    assert not read_hello(record(message(extension(0xFE0E, bytes(9))))).ech
