"""Matches of HTTPRouteGroups that fit nothing, or more than they seem to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from policy.build import Built
from policy.model import Problem
from policy.near import nearest
from policy.resources import Resource

# IANA's HTTP Method Registry without PRI, which is no request, and with PURGE and QUERY, which are in use but not in
# it.
METHODS = frozenset(
    (
        *(
            "ACL",
            "BASELINE-CONTROL",
            "BIND",
            "CHECKIN",
            "CHECKOUT",
            "CONNECT",
            "COPY",
            "DELETE",
            "GET",
            "HEAD",
            "LABEL",
            "LINK",
            "LOCK",
        ),
        *(
            "MERGE",
            "MKACTIVITY",
            "MKCALENDAR",
            "MKCOL",
            "MKREDIRECTREF",
            "MKWORKSPACE",
            "MOVE",
            "OPTIONS",
            "ORDERPATCH",
            "PATCH",
            "POST",
        ),
        *(
            "PROPFIND",
            "PROPPATCH",
            "PURGE",
            "PUT",
            "QUERY",
            "REBIND",
            "REPORT",
            "SEARCH",
            "TRACE",
            "UNBIND",
            "UNCHECKOUT",
            "UNLINK",
        ),
        *("UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"),
    )
)


def matches(built: Built) -> Iterator[Problem]:
    """Report methods that HTTP does not have, and patterns that fit no path, or every path."""
    for group in built.resources.all("HTTPRouteGroup"):
        if not group.spec.matches:
            yield group.problem(
                "warning", "$.spec", "it has no matches, so it admits no request", "list them under spec.matches"
            )
        for number, match in enumerate(group.spec.matches):
            at = f"$.spec.matches[{number}]"
            for index, method in enumerate(match.methods or ()):
                yield from _method(group, f"{at}.methods[{index}]", method)
            pattern = match.path_regex
            if pattern == "":
                yield group.problem(
                    "warning", f"{at}.pathRegex", "an empty pathRegex fits every path", "leave it out to mean that"
                )
            elif pattern and pattern.endswith("/*"):
                message = (
                    f"pathRegex {pattern!r} is no glob: the * repeats the slash, and every path that begins so fits"
                )
                yield group.problem("warning", f"{at}.pathRegex", message, f"did you mean {pattern[:-1]}.*?")
            elif pattern and re.search(r"\\\?|\?[A-Za-z0-9_]+=", pattern):
                message = (
                    f"pathRegex {pattern!r} asks for a query, and a path has none: what stands after ? is not looked at"
                )
                yield group.problem("warning", f"{at}.pathRegex", message, "end the pattern before it")
            elif (
                pattern
                and re.match("[A-Za-z0-9_-]", pattern)
                and "|" not in pattern
                and pattern[1:2] not in tuple("*?{")
            ):
                message = f"pathRegex {pattern!r} fits no path: it is held against the whole path, which begins with /"
                yield group.problem("warning", f"{at}.pathRegex", message, f"did you mean /{pattern}?")
            if pattern is None and not match.methods and not match.headers:
                message = f"match {match.name} says nothing about a request, so it fits every one"
                yield group.problem("notice", at, message, 'pathRegex: ".*" says so in words')


def _method(group: Resource[Any], path: str, method: str) -> Iterator[Problem]:
    if method in METHODS or method == "*":
        return
    if method.upper() in METHODS:
        message = f"method {method} fits no request: methods are told apart by case (RFC 9110 9.1)"
        yield group.problem("warning", path, message, f"did you mean {method.upper()}?")
        return
    near = nearest(method, METHODS)
    message = f"{method} is no method that HTTP knows"
    yield group.problem(
        "warning" if near else "notice",
        path,
        message,
        f"did you mean {near}?" if near else "it fits only what calls with it",
    )
