"""Write the corpora that fuzz_lane.c, fuzz_link.c, fuzz_tunnel.c and fuzz_stream.c begin with: what each end says in turn, as steps (see there)."""

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
    "fields": [(CALLER, GET[:-2] + b"accept: */*\r\nX-Forwarded-For: 1.2.3.4\r\nconnection: close\r\n\r\n"), (SERVER, OK)],
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
    "called-twice": (CALLED, [GREETS, *((step) for n in (1, 3) for step in ((PEER, frame(HEADERS, WHOLE, n, asks())), (OURS, OK)))]),
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
    "called-interim": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, b"HTTP/1.1 103 E\r\n\r\n" + OK)]),
    "called-unknown": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks("GET", "/admin")))]),
    "called-reset": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (PEER, frame(RST, 0, 1, b"\0\0\0\x08")), (OURS, OK)]),
    "called-until-close": (
        CALLED,
        [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, b"HTTP/1.1 200 OK\r\n\r\nab"), (END_OF_OURS, b"")],
    ),
    "called-drained": (CALLED, [GREETS, (PEER, frame(HEADERS, WHOLE, 1, asks())), (GOES_AWAY, b""), (OURS, OK)]),
    "calling": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(HEADERS, 4, 1, FINE) + frame(DATA, END, 1, b"ok"))]),
    "calling-twice": (
        CALLING,
        [ANSWERS, *((step) for n in (1, 3) for step in ((OURS, GET), (PEER, frame(HEADERS, 4, n, FINE) + frame(DATA, END, n, b"ok"))))],
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
        [ANSWERS, (OURS, POST + b"content-length: 9\r\n\r\na"), (PEER, frame(HEADERS, WHOLE, 1, fields((":status", "413"))))],
    ),
    "calling-refused": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(RST, 0, 1, b"\0\0\0\x07"))]),
    "calling-away": (CALLING, [ANSWERS, (OURS, GET), (PEER, frame(7, 0, 0, bytes(8))), (END_OF_PEER, b"")]),
    "calling-refusal": (
        CALLING,
        [ANSWERS, (OURS, GET), (PEER, frame(HEADERS, WHOLE, 1, fields((":status", "403"), ("x-edgemesh-reason", "denied"))))],
    ),
}


def tunnel(number: int) -> bytes:
    return frame(HEADERS, 4, number, fields((":method", "CONNECT"), (":authority", "10.0.0.2:80")))


READ, DROPPED = 5, 7 | 128
OPENED = frame(HEADERS, 4, 1, fields((":status", "200")))
TUNNELS: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "called": (
        CALLED,
        [GREETS, (PEER, tunnel(1)), (PEER, frame(DATA, 0, 1, b"abc")), (OURS, b"def"), (PEER, frame(DATA, END, 1)), (6, b"")],
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
        [GREETS, (PEER, tunnel(1)), (PEER, frame(DATA, 0, 1, b"abc")), (6 | 128, b""), (PEER, frame(DATA, 0, 1, b"abc"))],
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
    "called-shut": (CALLED, [(PEER, CLIENT[:-9] + frame(4, 0, 0, b"\0\x04\0\0\0\x03") + ACK), (PEER, tunnel(1)), (OURS, b"x" * 200)]),
    "called-dropped": (
        CALLED,
        [GREETS, (PEER, tunnel(1)), (PEER, frame(DATA, 0, 1, b"abc")), (DROPPED, b""), (PEER, frame(DATA, 0, 1, b"abc"))],
    ),
    "calling": (CALLING, [ANSWERS, (PEER, OPENED), (OURS, b"abc"), (PEER, frame(DATA, END, 1, b"def")), (READ, b""), (6, b"")]),
    "calling-away": (CALLING, [ANSWERS, (PEER, OPENED), (OURS, b"abc"), (PEER, frame(7, 0, 0, bytes(8))), (14, b"")]),
    "calling-trailers": (CALLING, [ANSWERS, (PEER, OPENED), (PEER, frame(HEADERS, WHOLE, 1, fields(("x-t", "1")))), (6, b"")]),
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
        "unary": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")), (OURS, SAYS + frame(DATA, 0, 1, b"hi") + DONE)],
        "get": [(PEER, frame(HEADERS, WHOLE, 1, asks())), (OURS, frame(HEADERS, 4, 1, FINE) + frame(DATA, END, 1, b"ok"))],
        "trailers-only": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"x")), (OURS, frame(HEADERS, WHOLE, 1, b"\x88"))],
        "talk": [
            (PEER, frame(HEADERS, 4, 1, GRPC)),
            (OURS, SAYS),
            (PEER, frame(DATA, 0, 1, b"one")),
            (OURS, frame(DATA, 0, 1, b"one")),
            (PEER, frame(DATA, 0, 1, b"two") + frame(HEADERS, WHOLE, 1, fields(("x-t", "1")))),
            (OURS, frame(DATA, 0, 1, b"two") + DONE),
        ],
        "early": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, 0, 1, b"a")), (OURS, SAYS + DONE + frame(RST, 0, 1, bytes(4)))],
        "interim": [
            (PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, 0, 1, b"a")),
            (OURS, frame(HEADERS, 4, 1, fields((":status", "103")))),
            (PEER, frame(DATA, END, 1, b"b")),
            (OURS, SAYS + DONE),
        ],
        "refused": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")), (OURS, frame(RST, 0, 1, b"\0\0\0\7"))],
        "away": [(PEER, frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"hello")), (OURS, frame(7, 0, 0, bytes(8)))],
        "caller-resets": [(PEER, frame(HEADERS, 4, 1, GRPC)), (PEER, frame(RST, 0, 1, b"\0\0\0\10")), (OURS, SAYS)],
        "server-lost": [(PEER, frame(HEADERS, 4, 1, GRPC)), (OURS, SAYS), (LOSES_SERVER, b""), (PEER, frame(DATA, END, 1, b"x"))],
        "forgotten": [(PEER, frame(HEADERS, 4, 1, GRPC)), (FORGETS, b""), (PEER, frame(HEADERS, WHOLE, 3, asks()))],
        "drained": [(PEER, frame(HEADERS, 4, 1, GRPC)), (SERVER_LEAVES, b""), (GOES_AWAY, b""), (OURS, SAYS + DONE)],
        "narrow": [
            (PEER, frame(4, 0, 0, b"\0\4\0\0\0\2") + frame(HEADERS, 4, 1, GRPC) + frame(DATA, END, 1, b"a")),
            (OURS, SAYS + frame(DATA, 0, 1, b"b" * 99) + DONE),
            (PEER, frame(8, 0, 1, b"\0\0\0\x63")),
        ],
    }.items()
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


if __name__ == "__main__":
    main()
