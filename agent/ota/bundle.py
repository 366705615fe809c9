"""The update bundle: one file with a manifest, its signatures, and edgemesh for one or several CPU families. Pure.

    magic         16 bytes, b"edgemesh bundle\\n"
    sizes         uint32 of the signatures, uint32 of the manifest; big-endian
    signatures    for each: 32 bytes that name the key (SHA-256 of the raw public key),
                  64 bytes of Ed25519 (RFC 8032) over CONTEXT + manifest
    manifest      JSON, see Manifest
    files         one after another, in the manifest's order

The manifest is not parsed before a signature has been verified.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

MAGIC = b"edgemesh bundle\n"
CONTEXT = b"edgemesh bundle manifest 1\n"  # so that nothing else that was signed with the key can pass for a manifest
FAMILIES = ("x86_64", "aarch64", "riscv64", "loong64")
_SIZES = struct.Struct(">II")
_SIGNATURE = 32 + 64
_MOST_SIGNATURES = 8
_MOST_MANIFEST = 1 << 16
MOST_FILE = 256 << 20
HEAD = len(MAGIC) + _SIZES.size


class BundleError(Exception):
    """The bundle is not accepted; the message says why."""


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """edgemesh for one CPU family."""

    family: str
    size: int
    sha256: str  # hexadecimal


class Manifest(Struct, frozen=True, rename="camel"):
    """What the bundle holds. Fields that a later version adds are ignored."""

    version: str
    epoch: int  # rises with every release; clocks are wrong at the edge, so no date tells what is newer
    files: tuple[File, ...]
    minimum: int = 0  # the least epoch that may update to this one; older boxes take an intermediate release first
    # the oldest epoch that a box may go back to from here: older ones may not be able to read what this one writes
    rollback: int = 0
    key_serial: int = 0  # number of the list of keys; a list with a greater number than the box's replaces the box's
    keys: tuple[str, ...] = ()  # keys that may sign from now on: raw public keys, hexadecimal; (): no change


class Head(Struct, frozen=True):
    """The sizes in the fixed part of a bundle, which tell where the manifest ends."""

    signatures: int
    manifest: int

    @property
    def size(self) -> int:
        return HEAD + self.signatures + self.manifest


def read_head(data: bytes) -> Head:
    """Parse the first HEAD bytes. Raise BundleError."""
    if len(data) < HEAD or not data.startswith(MAGIC):
        raise BundleError("this is no edgemesh bundle")
    signatures, manifest = _SIZES.unpack_from(data, len(MAGIC))
    if (
        not 0 < signatures <= _MOST_SIGNATURES * _SIGNATURE
        or signatures % _SIGNATURE
        or not 0 < manifest <= _MOST_MANIFEST
    ):
        raise BundleError("its head makes no sense")
    return Head(signatures, manifest)


def read_manifest(data: bytes, keys: Collection[bytes]) -> Manifest:
    """Parse the manifest in the first Head.size bytes, after verifying that one of `keys` (raw public keys) signed it.

    Raise BundleError.
    """
    head = read_head(data)
    if len(data) < head.size:
        raise BundleError("it is cut off in its manifest")
    signatures, manifest = data[HEAD : HEAD + head.signatures], data[HEAD + head.signatures : head.size]
    known = {key_id(key): key for key in keys}
    for at in range(0, len(signatures), _SIGNATURE):
        key = known.get(signatures[at : at + 32])
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signatures[at + 32 : at + _SIGNATURE], CONTEXT + manifest)
        except InvalidSignature:
            raise BundleError("its signature is wrong: it was altered, or cut and pasted") from None
        return _checked(manifest)
    named = ", ".join(signatures[at : at + 4].hex() for at in range(0, len(signatures), _SIGNATURE))
    raise BundleError(f"none of the keys that this box trusts has signed it (signed by {named}...)")


def _checked(data: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"its manifest: {error}") from None
    if (
        not manifest.version
        or len(manifest.version) > 64
        or not all(c.isascii() and (c.isalnum() or c in ".+-_") for c in manifest.version)
    ):
        raise BundleError("its version is no version")
    if (
        manifest.version.startswith((".", "-"))
        or manifest.epoch < 1
        or manifest.minimum < 0
        or manifest.rollback < 0
        or manifest.key_serial < 0
    ):
        raise BundleError("its manifest makes no sense")
    if not manifest.files or len({file.family for file in manifest.files}) != len(manifest.files):
        raise BundleError("it holds no file, or two of one family")
    for file in manifest.files:
        if not 0 < file.size <= MOST_FILE or len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef"):
            raise BundleError(f"its file for {file.family[:20]!r} makes no sense")
    for key in manifest.keys:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise BundleError("a key in its list is none")
    return manifest


def find(manifest: Manifest, head: Head, family: str) -> tuple[File, int]:
    """Return the file for a CPU family, and its offset. Raise BundleError."""
    at = head.size
    for file in manifest.files:
        if file.family == family:
            return file, at
        at += file.size
    raise BundleError(
        f"it holds nothing for this CPU ({family}), only for {', '.join(file.family for file in manifest.files)}"
    )


def whole_size(manifest: Manifest, head: Head) -> int:
    return head.size + sum(file.size for file in manifest.files)


def key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def write_head(manifest: Manifest, keys: Collection[Ed25519PrivateKey]) -> bytes:
    """Return all of a bundle except its files."""
    data = msgspec.json.encode(manifest)
    _checked(data)
    signatures = b"".join(key_id(key.public_key().public_bytes_raw()) + key.sign(CONTEXT + data) for key in keys)
    head = MAGIC + _SIZES.pack(len(signatures), len(data)) + signatures + data
    read_head(head)
    return head
