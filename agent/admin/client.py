"""The CLI's side of the admin API: one request over a Unix socket, and errors that say what to do."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from agent.http.client import Exchange, Response, fetch_blocking
from nodeproxy.errors import Refused

_TIMEOUT = 10.0  # seconds for each step of the daemon; its loop responds in milliseconds
_MOST = 256 << 20  # bytes of a response: a snapshot of ten thousand objects has about a twentieth


class Unreachable(ConnectionError):  # noqa: N818 - it is an answer for people
    """No daemon responded, or it was not ready to; the message says what to do."""


class Answered(Exception):  # noqa: N818 - it is an answer for people
    """The daemon refused: `error`, and `hint` what to do about it."""

    def __init__(self, status: int, error: str, hint: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint


class NotRunning(Unreachable):
    """No daemon runs."""


def get(socket_path: str, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
    """Return the document at `path`. Raise Unreachable or Answered."""
    return _document(socket_path, "GET", path, query, _TIMEOUT)


def post(socket_path: str, path: str, query: Sequence[tuple[str, str]] = (), timeout: float = _TIMEOUT) -> Any:
    """Send an action. Return its result. Raise Unreachable (NotRunning, when there is no daemon) or Answered."""
    return _document(socket_path, "POST", path, query, timeout)


def _document(socket_path: str, method: str, path: str, query: Sequence[tuple[str, str]], timeout: float) -> Any:
    response = _fetch(socket_path, method, f"{path}?{urlencode(query)}" if query else path, timeout)
    try:
        document = json.loads(response.body)
    except ValueError as error:
        raise Unreachable(f"{socket_path}: no answer that makes sense. Is it edgemesh that listens there?") from error
    if response.status == HTTPStatus.OK:
        return document
    said = document if isinstance(document, dict) else {}
    words, hint = str(said.get("error") or f"status {response.status}"), str(said.get("hint", ""))
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Unreachable(f"edgemesh at {socket_path} is not ready: {words}\n  {hint}".rstrip())
    raise Answered(response.status, words, hint)


def _fetch(socket_path: str, method: str, target: str, timeout: float) -> Response:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(socket_path)
            return fetch_blocking(sock, Exchange(method, target, "localhost", most=_MOST))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(
            f"edgemesh is not running on this node: nobody answers at {socket_path}\n"
            "  start it: edgemesh run --config DIR; or say where it listens: --socket PATH, or EDGEMESH_SOCKET"
        ) from error
    except PermissionError as error:
        raise Unreachable(
            f"you may not open {socket_path}\n  run this as the user that runs edgemesh, usually root"
        ) from error
    except TimeoutError as error:
        raise Unreachable(
            f"edgemesh did not answer at {socket_path} within {timeout:.0f} s\n  its log says what keeps it busy"
        ) from error
    except (OSError, Refused) as error:
        raise Unreachable(
            f"{socket_path}: no answer that makes sense: {error}\n  is it edgemesh that listens there?"
        ) from error
