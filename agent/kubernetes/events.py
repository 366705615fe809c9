"""Events (core/v1) that this process writes: bounded in number, and never worth a failure."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import trio

from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of

log = logging.getLogger("edgemesh.events")

BURST = 20
EACH = 10.0  # seconds until another one may be written
_MESSAGE = 1024  # characters: the API's bound


class Events:
    """Writes Events. `host`: the node that they are said to come from."""

    def __init__(self, api: ApiServer, host: str) -> None:
        self._api = api
        self._host = host
        self._left = float(BURST)
        self._at = -1.0
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Events of {self._host}, {self.dropped} dropped>"

    async def tell(self, about: Mapping[str, str], reason: str, message: str, kind: str = "Warning") -> bool:
        """Write an Event. Return whether it was written: not when there were many just now.

        `about`: kind, apiVersion, namespace, name and uid of the object. One without a namespace has its Events in
        "default". `reason`: one word in CamelCase.
        """
        if not self._admit():
            self.dropped += 1
            return False
        namespace = about.get("namespace") or "default"
        try:
            await self._api.create(
                path_of("v1", "events", namespace), self._event(about, namespace, reason, message, kind)
            )
        except (ApiError, ApiUnreachable) as error:
            log.info("an Event about %s was not written: %s", about.get("name"), error)
            return False
        return True

    def _event(self, about: Mapping[str, str], namespace: str, reason: str, message: str, kind: str) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = about.get("name", "")[:200].strip(".") or "edgemesh"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{secrets.token_hex(8)}", "namespace": namespace},
            "involvedObject": dict(about),
            "reason": reason,
            "message": message[:_MESSAGE],
            "type": kind,
            "source": {"component": "edgemesh", "host": self._host},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _admit(self) -> bool:
        now = trio.current_time()
        if self._at >= 0:
            self._left = min(float(BURST), self._left + (now - self._at) / EACH)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
