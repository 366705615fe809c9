"""What a caller is told when we say no: an HTTP response that names the reason and what to do about it (sans-IO)."""

from __future__ import annotations

from nodeproxy.errors import FLAGS, Refused

# RFC 9110 section 15; 499 is nginx's and never sent.
_REASONS = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    414: b"URI Too Long",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


def answer(refused: Refused, close: bool, head_only: bool = False) -> bytes:
    """The whole response. `head_only`: it answers HEAD, so the body is announced but not sent (RFC 9110 section 9.3.2).

    `x-edgemesh-reason` is the flag; for a denial it is the reason word of policy, with which the detail begins.
    """
    flag = FLAGS[refused.flag]
    reason = refused.flag
    if refused.flag == "denied":
        reason = refused.detail.partition(":")[0] or reason
    body = f"edgemesh: {flag.meaning}"
    if refused.detail:
        body += f": {refused.detail}"
    if flag.hint:
        body += f"\n{flag.hint}"
    content = body.encode("utf-8", "backslashreplace") + b"\n"
    head = b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nx-edgemesh-reason: %b\r\n%b\r\n" % (
        flag.status,
        _REASONS.get(flag.status, b""),
        len(content),
        reason.encode(),
        b"connection: close\r\n" if close else b"",
    )
    return head if head_only else head + content
