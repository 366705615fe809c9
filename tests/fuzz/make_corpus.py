"""Write the corpora of tests/fuzz: what each end says in turn, as steps (fuzz_lane.c, fuzz_link.c, fuzz_tunnel.c, fuzz_stream.c), and what
one parser reads (fuzz_parsers.c).
"""

from __future__ import annotations

import struct
from pathlib import Path

from hpack import Encoder

GET = b"GET /books HTTP/1.1\r\nhost: store\r\n\r\n"
POST = b"POST /books HTTP/1.1\r\nhost: store\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CALLER, SERVER, END_OF_CALLER, END_OF_SERVER, RECALL, TICK, WITH_NEXT = 0, 3, 6, 14, 15, 23, 64

TALKS: dict[str, list[tuple[int, bytes]]] = {
    "get": [(CALLER, GET), (SERVER, OK)],
    "get-twice": [(CALLER, GET + GET), (SERVER, OK), (SERVER, OK)],
    "fields": [
        (CALLER, GET[:-2] + b"accept: */*\r\nX-Forwarded-For: 1.2.3.4\r\nconnection: close\r\n\r\n"),
        (SERVER, OK),
    ],
    "query": [(CALLER, GET.replace(b"books", b"books?a=b")), (SERVER, OK)],
    "post": [(CALLER, POST + b"content-length: 5\r\n\r\nab"), (CALLER, b"cde"), (SERVER, OK)],
    "post-chunks": [
        (CALLER, POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        (CALLER, b"0\r\nx-t: 1\r\nhost: evil\r\n\r\n"),
        (SERVER, OK),
    ],
    "early": [
        (CALLER, POST + b"content-length: 9\r\n\r\na"),
        (SERVER, b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
    ],
    "chunks": [
        (CALLER, GET),
        (SERVER, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        (SERVER, b"0\r\na: b\r\n\r\n"),
    ],
    "until-close": [(CALLER, GET), (SERVER, b"HTTP/1.1 200 OK\r\n\r\nabc"), (END_OF_SERVER, b"")],
    "cut": [(CALLER, GET), (SERVER, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), (END_OF_SERVER, b"")],
    "half-close": [(WITH_NEXT | CALLER, GET), (END_OF_CALLER, b""), (SERVER, OK)],
    "304": [(CALLER, GET), (SERVER, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n")],
    "204": [(CALLER, GET), (SERVER, b"HTTP/1.1 204 No\r\n\r\n")],
    "interim": [(CALLER, GET), (SERVER, b"HTTP/1.1 103 E\r\n\r\n" + OK)],
    "recall": [(CALLER, GET), (RECALL, b""), (SERVER, OK)],
    "tick": [(CALLER, GET), (TICK, b""), (SERVER, OK), (TICK, b"")],
    "denied": [(CALLER, GET.replace(b"books", b"admin") * 3 + GET), (SERVER, OK)],
    "rules": [
        (CALLER, GET.replace(b"books", b"books?v=1")[:-2] + b"x-kind: b\r\nX-Gone: 1\r\nx-new: 2\r\n\r\n"),
        (SERVER, OK.replace(b"\r\n\r\n", b"\r\nx-gone: 1\r\nX-New: 2\r\n\r\n")),
        (CALLER, GET[:-2] + b"x-kind: a\r\n\r\n"),
    ],
    "parts": [(CALLER, GET), (SERVER, OK[:10]), (SERVER, OK[10:30]), (SERVER, OK[30:])],
}


PEER, OURS, END_OF_OURS, END_OF_PEER, GOES_AWAY = 0, 3, 6, 14, 15
CALLED, CALLING = b"\0", b"\1"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    return Encoder().encode(pairs, huffman=False)  # what can be read can be mutated with some sense


def asks(method: str = "GET", path: str = "/books", *more: tuple[str, str]) -> bytes:
    named = ((":method", method), (":scheme", "http"), (":path", path), (":authority", "store"))
    return fields(*named, *more, ("x-forwarded-for", "10.0.0.1"), ("x-edgemesh-destination", "10.0.0.2:80"))


HEADERS, DATA, RST, END, WHOLE = 1, 0, 3, 1, 5  # END_STREAM; with END_HEADERS
SETTINGS, ACK = frame(4, 0, 0), frame(4, 1, 0)
CLIENT = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
GREETS, ANSWERS = (PEER, CLIENT + ACK), (PEER, SETTINGS + ACK)
FINE = fields((":status", "200"), ("content-length", "2"))

CROSSINGS: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "called": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, OK)]),
    "called-twice": (
        CALLED,
        [GREETS, *((step) for n in (1, 3) for step in ((PEER, frame(HEADERS, WHOLE, n, asks())), (OURS, OK)))],
    ),
    "called-body": (
        CALLED,
        [
            GREETS,
            (PEER, frame(HEADERS, 4, 1, asks("POST", "/books", ("content-length", "6"))) + frame(DATA, 0, 1, b"abc")),
            (PEER, frame(DATA, END, 1, b"def")),
            (OURS, OK),
        ],
    ),
    "called-trailers": (
        CALLED,
        [
            GREETS,
            (PEER, frame(HEADERS, 4, 1, asks("POST"))),
            (PEER, frame(DATA, 0, 1, b"abc") + frame(HEADERS, WHOLE, 1, fields(("x-t", "1")))),
            (OURS, OK),
        ],
    ),
    "called-chunks": (
        CALLED,
        [
            GREETS,
            (PEER, frame(HEADERS, WHOLE, 1, asks())),
            (OURS, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            (OURS, b"0\r\na: b\r\n\r\n"),
        ],
    ),
    "called-interim": (
        CALLED,
        [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, b"HTTP/1.1 103 E\r\n\r\n" + OK)],
    ),
    "called-unknown": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks("GET", "/admin")))]),
    "called-reset": (
        CALLED,
        [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (PEER, frame(RST, 0, 1, b"\0\0\0\x08")), (OURS, OK)],
    ),
    "called-until-close": (
        CALLED,
        [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, b"HTTP/1.1 200 OK\r\n\r\nab"), (END_OF_OURS, b"")],
    ),
    "called-drained": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (GOES_AWAY, b""), (OURS, OK)]),
    "calling": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(HEADERS, 4, 1, FINE) + frame(DATA, END, 1, b"ok"))]),
    "calling-twice": (
        CALLING,
        [
            ANSWERS,
            *(
                (step)
                for n in (1, 3)
                for step in ((OURS, GET), (PEER, frame(HEADERS, 4, n, FINE) + frame(DATA, END, n, b"ok")))
            ),
        ],
    ),
    "calling-body": (
        CALLING,
        [
            ANSWERS,
            (OURS, POST + b"content-length: 5\r\n\r\nab"),
            (OURS, b"cde"),
            (PEER, frame(HEADERS, 4, 1, FINE) + frame(DATA, END, 1, b"ok")),
        ],
    ),
    "calling-chunks": (
        CALLING,
        [
            ANSWERS,
            (OURS, POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            (OURS, b"0\r\nx-t: 1\r\n\r\n"),
            (
                PEER,
                frame(HEADERS, 4, 1, fields((":status", "200")))
                + frame(DATA, 0, 1, b"ok")
                + frame(HEADERS, WHOLE, 1, fields(("x-t", "1"))),
            ),
        ],
    ),
    "calling-early": (
        CALLING,
        [
            ANSWERS,
            (OURS, POST + b"content-length: 9\r\n\r\na"),
            (PEER, frame(HEADERS, WHOLE, 1, fields((":status", "413")))),
        ],
    ),
    "calling-refused": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(RST, 0, 1, b"\0\0\0\x07"))]),
    "calling-away": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(7, 0, 0, bytes(8))), (END_OF_PEER, b"")]),
    "calling-refusal": (
        CALLING,
        [
            ANSWERS,
            (OURS, GET),
            (PEER, frame(HEADERS, WHOLE, 1, fields((":status", "403"), ("x-edgemesh-reason", "denied")))),
        ],
    ),
}


def tunnel(number: int) -> bytes:
    return frame(HEADERS, 4, number, fields((":method", "CONNECT"), (":authority", "10.0.0.2:80")))


READ, DROPPED = 5, 7 | 128
OPENED = frame(HEADERS, 4, 1, fields((":status", "200")))
TUNNELS: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "called": (
        CALLED,
        [
            GREETS,
            (PEER, tunnel(1)),
            (PEER, frame(DATA, 0, 1, b"abc")),
            (OURS, b"def"),
            (PEER, frame(DATA, END, 1)),
            (6, b""),
        ],
    ),
    "called-twice": (
        CALLED,
        [
            GREETS,
            (PEER, tunnel(1) + tunnel(3)),
            (PEER, frame(DATA, END, 1, b"abc") + frame(DATA, 0, 3, b"abc")),
            (OURS, b"x"),
            (OURS | 16, b"y"),
        ],
    ),
    "called-reset": (CALLED, [GREETS, (PEER, tunnel(1)), (OURS, b"x"), (PEER, frame(RST, 0, 1, b"\0\0\0\x0a"))]),
    "called-mild": (CALLED, [GREETS, (PEER, tunnel(1)), (6, b""), (PEER, frame(RST, 0, 1, b"\0\0\0\x08"))]),
    "called-gone": (
        CALLED,
        [
            GREETS,
            (PEER, tunnel(1)),
            (PEER, frame(DATA, 0, 1, b"abc")),
            (6 | 128, b""),
            (PEER, frame(DATA, 0, 1, b"abc")),
        ],
    ),
    "called-whole": (
        CALLED,
        [
            GREETS,
            (PEER, tunnel(1)),
            *((PEER, frame(DATA, 0, 1, b"x" * 240)) for _ in range(40)),
            (6, b""),
            (PEER, frame(DATA, END, 1)),
            (14, b""),
        ],
    ),
    "called-shut": (
        CALLED,
        [(PEER, CLIENT[:-9] + frame(4, 0, 0, b"\0\x04\0\0\0\x03") + ACK), (PEER, tunnel(1)), (OURS, b"x" * 200)],
    ),
    "called-dropped": (
        CALLED,
        [
            GREETS,
            (PEER, tunnel(1)),
            (PEER, frame(DATA, 0, 1, b"abc")),
            (DROPPED, b""),
            (PEER, frame(DATA, 0, 1, b"abc")),
        ],
    ),
    "calling": (
        CALLING,
        [ANSWERS, (PEER, OPENED), (OURS, b"abc"), (PEER, frame(DATA, END, 1, b"def")), (READ, b""), (6, b"")],
    ),
    "calling-away": (CALLING, [ANSWERS, (PEER, OPENED), (OURS, b"abc"), (PEER, frame(7, 0, 0, bytes(8))), (14, b"")]),
    "calling-trailers": (
        CALLING,
        [ANSWERS, (PEER, OPENED), (PEER, frame(HEADERS, WHOLE, 1, fields(("x-t", "1")))), (6, b"")],
    ),
}

SERVED, LENT = b"\0", b"\1"  # by the server itself; by its node
BEGINS = [(PEER, CLIENT + ACK), (OURS, SETTINGS + ACK)]
GRPC = asks("POST", "/books", ("content-type", "application/grpc"), ("te", "trailers"))
SAYS = frame(HEADERS, 4, 1, fields((":status", "200"), ("content-type", "application/grpc")))
DONE = frame(HEADERS, WHOLE, 1, fields(("grpc-status", "0")))
LOSES_SERVER, FORGETS, SERVER_LEAVES = 39, 135, 23

STREAMS: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    f"{name}{'-node' if to == LENT else ''}": (to, [*BEGINS, *steps])
    for to in (SERVED, LENT)
    for name, steps in {
        "unary": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")),
            (OURS, SAYS + frame(DATA, 0, 1, b"hi") + DONE),
        ],
        "get": [
            (PEER, frame(HEADERS, WHOLE, 1, asks())),
            (OURS, frame(HEADERS, 4, 1, FINE) + frame(DATA, END, 1, b"ok")),
        ],
        "trailers-only": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"x")),
            (OURS, frame(HEADERS, WHOLE, 1, b"\x88")),
        ],
        "talk": [
            (PEER, frame(HEADERS, 4, 1, GRPC)),
            (OURS, SAYS),
            (PEER, frame(DATA, 0, 1, b"one")),
            (OURS, frame(DATA, 0, 1, b"one")),
            (PEER, frame(DATA, 0, 1, b"two") + frame(HEADERS, WHOLE, 1, fields(("x-t", "1")))),
            (OURS, frame(DATA, 0, 1, b"two") + DONE),
        ],
        "early": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, 0, 1, b"a")),
            (OURS, SAYS + DONE + frame(RST, 0, 1, bytes(4))),
        ],
        "interim": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, 0, 1, b"a")),
            (OURS, frame(HEADERS, 4, 1, fields((":status", "103")))),
            (PEER, frame(DATA, END, 1, b"b")),
            (OURS, SAYS + DONE),
        ],
        "refused": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")),
            (OURS, frame(RST, 0, 1, b"\0\0\0\7")),
        ],
        "away": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")), (OURS, frame(7, 0, 0, bytes(8)))],
        "caller-resets": [(PEER, frame(HEADERS, 4, 1, GRPC)), (PEER, frame(RST, 0, 1, b"\0\0\0\10")), (OURS, SAYS)],
        "server-lost": [
            (PEER, frame(HEADERS, 4, 1, GRPC)),
            (OURS, SAYS),
            (LOSES_SERVER, b""),
            (PEER, frame(DATA, END, 1, b"x")),
        ],
        "forgotten": [(PEER, frame(HEADERS, 4, 1, GRPC)), (FORGETS, b""), (PEER, frame(HEADERS, WHOLE, 3, asks()))],
        "drained": [(PEER, frame(HEADERS, 4, 1, GRPC)), (SERVER_LEAVES, b""), (GOES_AWAY, b""), (OURS, SAYS + DONE)],
        "narrow": [
            (PEER, frame(4, 0, 0, b"\0\4\0\0\0\2") + frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"a")),
            (OURS, SAYS + frame(DATA, 0, 1, b"b" * 99) + DONE),
            (PEER, frame(8, 0, 1, b"\0\0\0\x63")),
        ],
    }.items()
}


REQUEST, RESPONSE, CHUNKS, NAME, FORWARDED, FIELDS, FOR_SERVER, FOR_CLIENT, FED, RELAYED = range(
    10
)  # fuzz_parsers.c PARSERS


def kept(*pairs: tuple[str, str]) -> bytes:
    """Fields of a stream as fuzz_parsers.c has them: sizes of one byte each, then name and value."""
    return b"".join(bytes((len(name), len(value))) + name.encode() + value.encode() for name, value in pairs)


ASKED = ((":method", "GET"), (":scheme", "http"), (":path", "/books"), (":authority", "store"))

# Which parser, where its bytes are cut in two (of the fields of a stream: what they are of), the bytes.
PARTS: dict[str, tuple[int, int, bytes]] = {
    "request": (REQUEST, 0, POST + b"X-Forwarded-For: 1\r\nte: trailers\r\ncontent-length: 3\r\n\r\n"),
    "request-bare": (REQUEST, 0, b"GET /\r\n\r\n"),
    "request-short": (REQUEST, 0, b"GET / HTTP/1.\r\n\r\n"),
    "response": (RESPONSE, 0, OK),
    "response-bare": (RESPONSE, 0, b"HTTP/1.1 200\r\n\r\n"),
    "response-short": (RESPONSE, 0, b"HTTP/1.1 20\r\n\r\n"),
    "chunks": (CHUNKS, 8, b"3;x=y\r\nabc\r\n0\r\nx-t: 1\r\nhost: evil\r\n\r\n"),
    "chunks-server": (CHUNKS, 1, b"a \r\n0123456789\r\n0\r\n\r\n"),
    "name": (NAME, 0, b"x-edgemesh-destination"),
    "name-length": (NAME, 0, b"Content-Length"),
    "name-coding": (NAME, 0, b"transfer-encoding"),
    "forwarded": (FORWARDED, 11, b"10.0.0.2:8010.0.0.9,\t 10.0.0.1"),
    "forwarded-empty": (FORWARDED, 0, b", "),
    "asked": (
        FIELDS,
        0,
        kept(*ASKED, ("x-forwarded-for", "10.0.0.1"), ("x-edgemesh-destination", "10.0.0.2:80"), ("te", "trailers")),
    ),
    "asked-here": (FIELDS, 1, kept(*ASKED, ("cookie", "a"), ("content-length", "3"))),
    "asked-nameless": (FIELDS, 1, kept(*ASKED, ("", ""))),
    "said": (FIELDS, 2, kept((":status", "200"), ("content-length", "2"), ("x-edgemesh-reason", "x"))),
    "said-nameless": (FIELDS, 2, kept((":status", "200"), ("", ""))),
    "trailers": (FIELDS, 0, kept(("x-t", "1"), ("grpc-status", "0"))),
    "frames": (FOR_SERVER, 20, CLIENT + ACK + frame(HEADERS, WHOLE, 1, asks())),
    "frames-pieces": (
        FOR_SERVER,
        99,
        CLIENT
        + frame(HEADERS, 9, 1, b"\2" + asks()[:9] + bytes(2))
        + frame(9, 0, 1, asks()[9:20])
        + frame(9, 4, 1, asks()[20:]),
    ),
    "frames-large": (FOR_SERVER, 90, CLIENT + frame(HEADERS, 1, 1, asks()) + frame(9, 4, 1, b"\0\1x\x7f\x81\xff\3ab")),
    "frames-padded": (FOR_SERVER, 80, CLIENT + frame(HEADERS, 4, 1, asks("POST")) + frame(DATA, 9, 1, b"\2abc\0\0")),
    "answers": (FOR_CLIENT, 9, SETTINGS + ACK + frame(7, 0, 0, bytes(8) + b"words") + frame(6, 0, 0, b"abcdefgh")),
    "fed": (FED, 0, CLIENT + ACK + frame(HEADERS, WHOLE, 1, asks())),
    "relayed": (RELAYED, 5, b"helloworld"),
}


def write(folder: Path, name: str, first: bytes, steps: list[tuple[int, bytes]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(first + b"".join(bytes((who, len(data))) + data for who, data in steps))


def main() -> None:
    here = Path(__file__).parent
    for name, steps in TALKS.items():
        write(here / "corpus", name, b"", steps)
    for name, (end, steps) in CROSSINGS.items():
        write(here / "corpus-link", name, end, steps)
    for name, (end, steps) in TUNNELS.items():
        write(here / "corpus-tunnel", name, end, steps)
    for name, (end, steps) in STREAMS.items():
        write(here / "corpus-stream", name, end, steps)
    (here / "corpus-parsers").mkdir(exist_ok=True)
    for name, (parser, cut, data) in PARTS.items():
        (here / "corpus-parsers" / name).write_bytes(bytes((parser, cut)) + data)


if __name__ == "__main__":
    main()
