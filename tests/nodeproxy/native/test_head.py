"""Which heads the native lane takes for plain, each with a key that it has learned; everything else goes up with its bytes untouched.

That a head is odd can only be seen where nothing else sends it up: so the lane is taught the very method, path and host that are asked.
"""

from __future__ import annotations

import pytest

from nodeproxy import native
from nodeproxy.codec import message
from tests.compiled import needs_lane
from tests.nodeproxy.fastpath.test_path import GET, OK, Place, programmed

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.native import END, FAILED, REQUEST, RESPONSE


def get(*fields, target=b"/books", method=b"GET", host=b"store", version=b"HTTP/1.1"):
    lines = (method + b" " + target + b" " + version, b"host: " + host, *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields, body=b"", target=b"/books"):
    return get(*fields, target=target, method=b"POST") + body


def sent(*fields, target=b"/books", method=b"GET", host=b"store", xff=b"10.0.0.1"):
    """As the server gets it. `fields` come before ours."""
    lines = (
        method + b" " + target + b" HTTP/1.1",
        b"host: " + host,
        *fields,
        b"x-forwarded-proto: http",
        b"x-forwarded-for: " + xff,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def wide(place):
    """All paths are one."""
    place.carried.drop()
    programmed(place, ["/.*"])
    for method in (b"GET", b"HEAD", b"POST", b"PUT"):
        place.lane.learn(place.plan, place.target, 0, method, b"/a", b"store")
    return place


def teach(place, method=b"GET", path=b"/books", host=b"store"):
    place.lane.learn(place.plan, place.target, 0, method, path, host)


def goes_up(place, asked):
    """It reaches no server, and comes up as it was."""
    heard, told = place.say(asked), place.ups()
    place.carried = place.carry(1)
    return (heard, told) == (b"", [(1, REQUEST, "", asked, b"")])


def is_served(place, asked, as_=None):
    heard = place.say(asked)
    if as_ is not None:
        assert heard == as_
    return bool(heard) and place.answer(OK) == OK


# the request line


@pytest.mark.parametrize(
    "target",
    [
        b"/books/../admin", b"/books/./x", b"/.books", b"/.", b"/books/.", b"/books/..", b"/%62ooks", b"/books%2Fx", b"/a;b", b"/a\\b", b"/a#b",
        b"/a?b#c", b"/a?b c", b"/a?\x80", b"/a\x7f", b"/a\xe4", b"books", b"*", b"", b"http://store/books", b"/a\x00", b"/a\tb", b'/a"b', b"/a<b", b"/a|b",
    ],
)  # fmt: skip
def test_a_path_that_could_be_read_otherwise(place, target):
    assert goes_up(wide(place), get(target=target))


def test_each_byte_of_a_path_and_of_a_query(place):
    """As codec/message.py reads them, but for ";", which some take for the end of a segment."""
    wide(place)
    for byte in range(256):
        char = bytes([byte])
        asked = get(target=b"/b" + char + b"z")
        if char == b"?":
            continue
        plain = char != b";" and message._PLAIN.fullmatch(b"/b" + char + b"z") is not None
        assert (is_served if plain else goes_up)(place, asked), char
        asked = get(target=b"/b?" + char + b"z")
        assert (is_served if message._QUERY.fullmatch(char) else goes_up)(place, asked), char


@pytest.mark.parametrize(
    "target", [b"/", b"//", b"/b//c", b"/b/c.d", b"/b..", b"/b/c./d", b"/b?", b"/b?x/../y", b"/b?x=%2F.."]
)
def test_a_path_that_can_be_read_in_one_way(place, target):
    assert is_served(wide(place), get(target=target), sent(target=target))


def test_the_path_that_was_learned_is_the_one_without_its_query(place):
    assert is_served(place, get(target=b"/books?a=1"), sent(target=b"/books?a=1"))
    teach(place, path=b"/books?a=1")
    assert goes_up(place, get(target=b"/books%3Fa=1"))


def test_the_size_of_a_path():
    place = Place(path_bytes=20)
    wide(place)
    assert is_served(place, get(target=b"/" + b"x" * 19))
    assert is_served(place, get(target=b"/" + b"x" * 19 + b"?y"))
    assert goes_up(place, get(target=b"/" + b"x" * 20))
    place.close()


@pytest.mark.parametrize(
    "line",
    [
        b"GET /books HTTP/1.0", b"GET /books HTTP/2.0", b"GET /books HTTP/1.1 ", b"GET /books  HTTP/1.1", b"GET  /books HTTP/1.1", b" GET /books HTTP/1.1",
        b"GET\t/books HTTP/1.1", b"GET /books http/1.1", b"GET /books", b"GET", b"/books HTTP/1.1", b"GET /books HTTP/1.1\n", b"GE(T /books HTTP/1.1",
        b"CONNECT /books HTTP/1.1",
    ],
)  # fmt: skip
def test_a_request_line_that_is_odd(place, line):
    for method in (b"CONNECT", b"GE(T", b"", b"GET\t", b"\nGET"):
        teach(place, method)
    assert goes_up(place, line + b"\r\nhost: store\r\n\r\n")


def test_a_line_that_ends_with_lf(place):
    assert goes_up(place, b"GET /books HTTP/1.1\nhost: store\n\n")
    assert goes_up(place, b"GET /books HTTP/1.1\r\nhost: store\nx: 1\r\n\r\n")
    assert goes_up(place, b"\r\n" + GET)


def test_the_size_of_a_method(place):
    """llhttp knows those that are in use; the longest that it takes for one is within ours."""
    teach(place, b"OPTIONS")
    assert is_served(place, get(method=b"OPTIONS"), sent(method=b"OPTIONS"))
    for method in (b"BREW", b"X" * 16, b"X" * 17):
        teach(place, method)
        assert goes_up(place, get(method=method))


# the host


@pytest.mark.parametrize(
    "host", [b"store", b"STORE.shop_1-a", b"10.0.0.1", b"store:80", b"store:65535", b"store:", b"store:00080"]
)
def test_a_host(place, host):
    teach(place, host=host)
    assert is_served(place, get(host=host), sent(host=host))


@pytest.mark.parametrize(
    "host", [b"a b", b"a:123456", b"a:8o", b"a:8:0", b":80", b"[::1]", b"[::1]:80", b"a/b", b"a@b", b"a,b", b"a%41", b"a;b", b"\xe4", b"a:-1", b"a: 1"]
)  # fmt: skip
def test_a_host_that_is_odd(place, host):
    teach(place, host=host)
    assert goes_up(place, get(host=host))


def test_one_host_and_no_other(place):
    teach(place, host=b"")
    assert goes_up(place, b"GET /books HTTP/1.1\r\n\r\n")
    assert goes_up(place, b"GET /books HTTP/1.1\r\nx: 1\r\n\r\n")
    assert goes_up(place, get(host=b""))
    assert goes_up(place, get(host=b" "))
    assert goes_up(place, get(b"host: store"))
    assert goes_up(place, get(b"HOST: store"))
    assert goes_up(place, get(host=b"stores"))


def test_the_host_in_other_letters_is_another_key(place):
    assert goes_up(place, get(host=b"Store"))


# fields

ODD = [
    b"x-a : 1", b" x-a: 1", b"x-a", b": 1", b"x(a: 1", b"x-a: 1\x00", b"x-a: 1\x7f", b"x-a: 1\x0b", b"x-a: 1\r", b"x-a: 1\r\r", b"x-a: 1\r\n 2", b"x-a: 1\n",
    b"expect: 100-continue", b"Expect: x", b"upgrade: websocket", b"UPGRADE: h2c", b"connection: upgrade", b"connection: x-a", b"connection: close, te",
    b"connection: te", b"connection:", b"te: gzip", b"te: trailers, gzip", b"te:", b"te: trailers\r\nte: trailers",
    b"content-length: 0\r\ncontent-length: 0", b"content-length:", b"content-length: +1", b"content-length: -1", b"content-length: 1x", b"content-length: 0x0",
    b"content-length: 0, 0", b"content-length: 1234567890123456789", b"content-length: /", b"content-length: :",
    b"transfer-encoding: gzip", b"transfer-encoding: chunked, gzip", b"transfer-encoding: gzip, chunked", b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", b"transfer-encoding: chunked\r\ncontent-length: 0",
    b"content-length: 0\r\ntransfer-encoding: chunked", b"transfer-encoding:", b"transfer-encoding: identity",
]  # fmt: skip


@pytest.mark.parametrize("field", ODD)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_field_that_is_odd(place, method, field):
    assert goes_up(place, get(field, method=method))
    assert goes_up(place, get(b"x: 1", field, b"y: 2", method=method))


# what comes -> what goes on
WRITTEN = {
    b"X-A:  two  words \t": b"X-A:  two  words \t",
    b"x-a:": b"x-a:",
    b"x-a: \x80\xff\t~": b"x-a: \x80\xff\t~",
    b"!#$%&'*+-.^_`|~09: 1": b"!#$%&'*+-.^_`|~09: 1",
    b"x-edgemesh: 1": b"x-edgemesh: 1",
    b"x-edgemesh-": None,
    b"X-Edgemesh-Destination: 10.0.0.1:80": None,
    b"connection: keep-alive": None,
    b"Connection: KEEP-ALIVE": None,
    b"Keep-Alive: 5": None,
    b"Proxy-Connection: keep-alive": None,
    b"traceparent: 00-1": b"traceparent: 00-1",
    b"trailer: x": b"trailer: x",
    b"expects: 1": b"expects: 1",
    b"tee: x": b"tee: x",
    b"hosts: x": b"hosts: x",
    b"upgrades: x": b"upgrades: x",
}


@pytest.mark.parametrize("field", WRITTEN)
def test_a_field_as_it_goes_on(place, field):
    written = WRITTEN[field]
    said = field if b":" in field else field + b": x"
    assert is_served(place, get(said), sent(*([written] if written is not None else [])))


def test_framing_is_said_anew(place):
    for said in (
        b"content-length: 3",
        b"Content-Length:  3\t",
        b"content-length: 003",
        b"content-length: 000000000000000003",
    ):
        place.say(post(said))
        assert place.say(b"abc") == b"abc"
        assert place.answer(OK) == OK
    assert place.say(post(b"Content-Length: 003")).endswith(b"x-forwarded-for: 10.0.0.1\r\ncontent-length: 3\r\n\r\n")
    assert place.say(b"abc") == b"abc"
    assert place.answer(OK) == OK
    assert place.say(post(b"content-length: 0")).endswith(b"content-length: 0\r\n\r\n")
    assert place.answer(OK) == OK
    assert place.say(post(b"content-length: 123456789012345678")).endswith(
        b"content-length: 123456789012345678\r\n\r\n"
    )


def test_chunks_are_said_anew(place):
    for said in (b"transfer-encoding: chunked", b"Transfer-Encoding:  CHUNKED "):
        heard = place.say(post(said, body=b"3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"))
        assert heard.endswith(b"10.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nd\r\nabc0123456789\r\n0\r\n\r\n")
        assert place.answer(OK) == OK


def test_trailers_are_wished_for(place):
    said = place.say(get(b"TE: Trailers"))
    assert said == sent()[:-2] + b"connection: te\r\nte: trailers\r\n\r\n"


def test_what_ends_the_connection(place):
    assert place.say(get(b"Connection: Close")) == sent()
    assert place.answer(OK) == OK[:-4] + b"connection: close\r\n\r\nok"
    assert place.ups() == [(1, END, "", b"", b"")]


def test_who_forwarded_before(place):
    assert is_served(
        place,
        get(b"x-forwarded-proto: https"),
        b"GET /books HTTP/1.1\r\nhost: store\r\nx-forwarded-proto: https\r\nx-forwarded-for: 10.0.0.1\r\n\r\n",
    )
    assert is_served(
        place, get(b"X-Forwarded-For: a", b"x: 1", b"x-forwarded-for: b"), sent(b"x: 1", xff=b"a, b, 10.0.0.1")
    )
    assert is_served(place, get(b"X-Forwarded-For:"), sent())
    assert is_served(place, get(b"X-Forwarded-For: 10.0.0.1", b"x-forwarded-for:"), sent(xff=b"10.0.0.1, , 10.0.0.1"))
    assert is_served(place, get(b"X-Forwarded-For:", b"x-forwarded-for: a"), sent(xff=b"a, 10.0.0.1"))
    assert is_served(
        place, get(b"X-Forwarded-For: 10.0.0.1", b"x-forwarded-for: a"), sent(xff=b"10.0.0.1, a, 10.0.0.1")
    )
    assert is_served(place, get(b"X-Forwarded-For: a,\t 10.0.0.1"), sent(xff=b"a,\t 10.0.0.1"))
    assert is_served(place, get(b"X-Forwarded-For: 10.0.0.2"), sent(xff=b"10.0.0.2, 10.0.0.1"))


def test_the_number_of_fields():
    place = Place(header_count=5)
    assert is_served(place, get(*[b"x: 1"] * 4))
    assert goes_up(place, get(*[b"x: 1"] * 5))
    place.close()
    place = Place(header_count=1000)  # its own bound is below that
    assert is_served(place, get(*[b"x: 1"] * 255))
    assert goes_up(place, get(*[b"x: 1"] * 256))
    place.close()


def test_the_size_of_a_head():
    place = Place(head_bytes=200)
    fits = get(b"x: " + b"y" * (200 - len(get(b"x: "))))
    assert len(fits) == 200
    assert is_served(place, fits)
    assert place.say(post(b"content-length: 300", b"x: 1", body=b"z" * 300)).endswith(b"z" * 300)
    assert place.answer(OK) == OK
    assert goes_up(place, get(b"x: " + b"y" * (201 - len(get(b"x: ")))))
    place.close()


# responses


def goes_up_from_server(place, answer):
    place.say(GET)
    heard = place.answer(answer)
    told = place.ups()
    server, place.d = place.pair()
    place.lane.lend(8, server.fileno(), place.target)
    place.carried = place.carry(1)
    return (heard, told) == (b"", [(1, RESPONSE, "", GET, answer)])


ODD_RESPONSES = [
    b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 2o0 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 2:0 OK\r\n\r\n",
    b"HTTP/1.1 2/0 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n", b"HTTP/1.1 103 Early\r\n\r\n", b"HTTP/1.1 199 x\r\n\r\n",
    b"HTTP/1.1 200 O\x00K\r\n\r\n", b"HTTP/1.1 200 O\x7fK\r\n\r\n", b"HTTP/1.1 200 O\rK\r\n\r\n", b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTQ", b"X", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n",
    *(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n" for field in (
        b"x-a : 1", b"x-a: 1\r\n 2", b"x-a", b"te: trailers", b"upgrade: h2c", b"connection: upgrade", b"connection: x-a",
        b"content-length: 0\r\ncontent-length: 0", b"content-length: -1", b"content-length:", b"content-length: 1234567890123456789",
        b"transfer-encoding: gzip", b"transfer-encoding: gzip, chunked", b"transfer-encoding: chunked\r\ncontent-length: 0",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    )),
]  # fmt: skip


@pytest.mark.parametrize("answer", ODD_RESPONSES)
def test_a_response_that_is_odd(place, answer):
    assert goes_up_from_server(place, answer)


def test_a_response_comes_in_pieces(place):
    """What may become a plain head is waited for, and anything else goes up as soon as it is known."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for size in range(1, len(answer) - 2):
        place.say(GET)
        assert place.answer(answer[:size]) == b""
        assert place.ups() == []
        assert place.answer(answer[size:]) == OK
    place.say(GET)
    assert place.answer(b"HTTP/1.1 200 OK\r\nx: 1") == b""
    assert place.answer(b"\n") == b""
    assert place.ups() == [(1, RESPONSE, "", GET, b"HTTP/1.1 200 OK\r\nx: 1\n")]


def test_the_size_of_a_response_head():
    place = Place(head_bytes=200)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: %b\r\n\r\n"
    fits = answer % (b"y" * (200 - len(answer) + 2))
    assert len(fits) == 200
    place.say(GET)
    assert place.answer(fits).startswith(b"HTTP/1.1 200 OK\r\n")
    assert goes_up_from_server(place, fits[:35] + b"y" + fits[35:])
    place.say(GET)
    assert place.answer(fits[:199]) == b""
    assert place.ups() == []
    assert place.answer(fits[199:]).startswith(b"HTTP/1.1 200 OK\r\n")
    assert goes_up_from_server(place, b"HTTP/1.1 200 OK\r\nx: " + b"y" * (200 - 20))
    place.close()


def test_the_number_of_a_responses_fields(place):
    many = b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 255
    place.say(GET)
    assert place.answer(many + b"content-length: 0\r\n\r\n") == many + b"content-length: 0\r\n\r\n"
    assert goes_up_from_server(place, many + b"x: 1\r\ncontent-length: 0\r\n\r\n")


RESPONSES = {
    "as it is": (b"HTTP/1.1 200 Fine, \xe4 thanks\r\nServer:  x \r\nSet-Cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n", None),
    "without a reason": (b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n", None),
    "length said anew": (b"HTTP/1.1 200 OK\r\nContent-Length: 00\r\nx: 1\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 0\r\n\r\n"),
    "hop by hop": (
        b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nKeep-Alive: 5\r\nproxy-connection: x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    "ours": (b"HTTP/1.1 200 OK\r\nX-Edgemesh-Reason: fake\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    "a request's fields": (
        b"HTTP/1.1 200 OK\r\nhost: a\r\nhost: b\r\nexpect: x\r\nx-forwarded-for: a\r\nx-forwarded-proto: b\r\ntraceparent: c\r\ncontent-length: 0\r\n\r\n",
        None,
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", None),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with chunks": (b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", None),
    "304": (b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", None),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nx: 1\r\n\r\n3;a\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_as_it_goes_on(place, name):
    said, heard = RESPONSES[name]
    place.say(GET)
    assert place.answer(said) == (heard or said)
    assert place.lane.gone() == []
    assert place.say(GET), "its connection is used again"


def test_a_response_to_head_has_no_body(place):
    for fields in (b"content-length: 5", b"content-length: 0", b"transfer-encoding: chunked", b"x: 1"):
        said = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n"
        place.say(GET.replace(b"GET", b"HEAD"))
        assert place.answer(said) == said
        assert place.lane.gone() == []


@pytest.mark.parametrize("word", [b"close", b"Close"])
def test_a_response_that_closes(place, word):
    place.say(GET)
    assert place.answer(OK[:-4] + b"connection: " + word + b"\r\n\r\nok") == OK
    assert place.lane.gone() == [7]
    assert place.ups() == []


# trailers


NEVER = (
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"content-length", b"host", b"authorization",
    b"x-forwarded-for", b"x-forwarded-proto", b"expect", b"trailer", b"X-Edgemesh-Reason", b"x-edgemesh-", b"Host", b"AUTHORIZATION",
)  # fmt: skip


@pytest.mark.parametrize("name", NEVER)
def test_a_trailer_that_ends_here(place, name):
    """RFC 9110 section 6.5.1: fields that frame, route, authenticate or describe the connection are no trailers."""
    chunks = b"3\r\nabc\r\n0\r\n"
    heard = place.say(
        post(b"transfer-encoding: chunked", body=chunks + b"X-A: 1\r\n" + name + b": 1\r\nx-b: 2\r\n\r\n")
    )
    assert heard.endswith(b"\r\n\r\n" + chunks + b"X-A: 1\r\nx-b: 2\r\n\r\n")
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    assert place.answer(answer + name + b": 1\r\nX-A: 1\r\n\r\n") == answer + b"X-A: 1\r\n\r\n"


def test_trailers_that_travel(place):
    chunks = b"0\r\nx-edgemesh: 1\r\nhosts: 2\r\ntrailers: 3\r\nx-empty: \r\n\r\n"
    assert place.say(post(b"transfer-encoding: chunked", body=chunks)).endswith(chunks)


@pytest.mark.parametrize("fits", [True, False])
def test_the_size_of_trailers(place, fits):
    """The whole section, 8 KiB, and the CRLF that ends it."""
    place.say(post(b"transfer-encoding: chunked"))
    place.say(b"0\r\na: " + b"x" * (8187 if fits else 8188) + b"\r\n\r\n")
    if fits:
        assert place.answer(OK) == OK
    else:
        ((_, what, flag, _, _),) = place.ups()
        assert (what, flag) == (FAILED, "bad-request")
