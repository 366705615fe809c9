"""The CLI's side of the admin API: one GET over a Unix socket, and errors that say what to do."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

_TIMEOUT = 10.0  # seconds for the daemon to answer; its loop answers in milliseconds


class Unreachable(ConnectionError):  # noqa: N818 - it is an answer for people
    """No daemon answered, or one that is not ready to; the message says what to do."""


class Answered(Exception):  # noqa: N818 - it is an answer for people
    """The daemon said no: `error`, and `hint` what to do about it."""

    def __init__(self, status: int, error: str, hint: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint


class NotRunning(Unreachable):
    """There is no daemon."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(socket_path: str, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
    """The document at `path`. Raises Unreachable or Answered."""
    return _document(socket_path, "GET", path, query, _TIMEOUT)


def post(socket_path: str, path: str, query: Sequence[tuple[str, str]] = (), timeout: float = _TIMEOUT) -> Any:
    """Have something done; what came of it. Raises Unreachable (NotRunning, when there is no daemon) or Answered."""
    return _document(socket_path, "POST", path, query, timeout)


def _document(socket_path: str, method: str, path: str, query: Sequence[tuple[str, str]], timeout: float) -> Any:
    status, body = _fetch(socket_path, method, f"{path}?{urlencode(query)}" if query else path, timeout)
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Unreachable(f"{socket_path}: no answer that makes sense. Is it edgemesh that listens there?") from error
    if status == http.client.OK:
        return document
    said = document if isinstance(document, dict) else {}
    words, hint = str(said.get("error") or f"status {status}"), str(said.get("hint", ""))
    if status == http.client.SERVICE_UNAVAILABLE:
        raise Unreachable(f"edgemesh at {socket_path} is not ready: {words}\n  {hint}".rstrip())
    raise Answered(status, words, hint)


def _fetch(socket_path: str, method: str, target: str, timeout: float) -> tuple[int, bytes]:
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(
            f"edgemesh is not running on this node: nobody answers at {socket_path}\n"
            "  start it: edgemesh run --config DIR; or say where it listens: --socket PATH, or EDGEMESH_SOCKET"
        ) from error
    except PermissionError as error:
        raise Unreachable(f"you may not open {socket_path}\n  run this as the user that runs edgemesh, usually root") from error
    except TimeoutError as error:
        raise Unreachable(f"edgemesh did not answer at {socket_path} within {timeout:.0f} s\n  its log says what keeps it busy") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{socket_path}: no answer that makes sense: {error}\n  is it edgemesh that listens there?") from error
    finally:
        connection.close()
