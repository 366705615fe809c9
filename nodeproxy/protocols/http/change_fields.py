"""Filters that set, add and remove fields (policy/route.py, RequestFields and ResponseFields)."""

from __future__ import annotations

from nodeproxy.codec.message import RequestHead, ResponseHead, check_field
from policy.route import Fields, RequestFields, ResponseFields


class _Change:
    """Fields as they are written into a message. Raise ValueError for one that may not be set."""

    def __init__(self, fields: Fields) -> None:
        self._set = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.set]
        self._add = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.add]
        self._remove = [name.encode("latin-1") for name in fields.remove]
        for name, value in (*self._set, *self._add, *((name, b"") for name in self._remove)):
            check_field(name, value)

    def make(self, head: RequestHead | ResponseHead) -> None:
        for name, value in self._set:
            head.set_field(name, value)
        for name, value in self._add:
            head.add_field(name, value)
        for name in self._remove:
            head.remove_field(name)


class ChangesRequest:
    """Changes the request."""

    def __init__(self, config: RequestFields) -> None:
        self._change = _Change(config.change)

    async def request(self, head: RequestHead) -> None:
        self._change.make(head)

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """The response is left as it is."""


class ChangesResponse:
    """Changes the response."""

    def __init__(self, config: ResponseFields) -> None:
        self._change = _Change(config.change)

    async def request(self, head: RequestHead) -> None:
        """The request is left as it is."""

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        self._change.make(response)
