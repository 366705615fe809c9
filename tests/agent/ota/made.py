"""Keys and bundles for tests."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.ota.bundle import CONTEXT, MAGIC, File, Manifest, key_id, write_head

PROGRAMS = {"x86_64": b"#!/bin/sh\necho x86_64\n", "aarch64": b"#!/bin/sh\necho another\n"}


def key(number: int = 1) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(number: int = 1) -> bytes:
    return key(number).public_key().public_bytes_raw()


def file(family: str, data: bytes) -> File:
    return File(family, len(data), hashlib.sha256(data).hexdigest())


def manifest(version: str = "1.0", epoch: int = 1, programs: Mapping[str, bytes] = PROGRAMS, **fields: Any) -> Manifest:
    return Manifest(version, epoch, tuple(file(family, data) for family, data in programs.items()), **fields)


def bundle(of: Manifest | None = None, programs: Mapping[str, bytes] = PROGRAMS, keys: Sequence[int] = (1,)) -> bytes:
    return write_head(of or manifest(programs=programs), [key(number) for number in keys]) + b"".join(programs.values())


def signed(data: bytes, keys: Sequence[int] = (1,)) -> bytes:
    """A head around any bytes, signed in good form."""
    signatures = b"".join(key_id(public(number)) + key(number).sign(CONTEXT + data) for number in keys)
    return MAGIC + struct.pack(">II", len(signatures), len(data)) + signatures + data


def altered(**fields: Any) -> bytes:
    """A manifest's JSON with fields set, or with `...` left out."""
    document = msgspec.json.decode(msgspec.json.encode(manifest())) | fields
    return msgspec.json.encode({name: value for name, value in document.items() if value is not ...})
