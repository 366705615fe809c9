"""Write the corpus that fuzz_lane.c begins with: what a caller and a server say in turn, as steps (see there)."""

from __future__ import annotations

from pathlib import Path

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


def main() -> None:
    folder = Path(__file__).parent / "corpus"
    for name, steps in TALKS.items():
        (folder / name).write_bytes(b"".join(bytes((who, len(data))) + data for who, data in steps))


if __name__ == "__main__":
    main()
