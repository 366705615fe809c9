"""Bundles: nothing that was altered, cut or put together passes, and nothing of a manifest is read before its signature."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ota import bundle as module
from agent.ota.bundle import (
    CONTEXT,
    HEAD,
    MAGIC,
    MOST_FILE,
    BundleError,
    Manifest,
    find,
    read_head,
    read_manifest,
    whole_size,
    write_head,
)
from tests.agent.ota.made import PROGRAMS, altered, bundle, key, manifest, public, signed

WHOLE = bundle()
SIZE = read_head(WHOLE).size
KEYS = [public()]


def test_what_was_written_is_read() -> None:
    found = read_manifest(WHOLE, KEYS)
    assert found == manifest()
    head = read_head(WHOLE)
    assert whole_size(found, head) == len(WHOLE)
    for family, data in PROGRAMS.items():
        file, at = find(found, head, family)
        assert WHOLE[at : at + file.size] == data


def test_the_format_is_as_written_down() -> None:
    """Boxes in the field read it for years."""
    data = altered()
    assert MAGIC == b"edgemesh bundle\n"
    assert CONTEXT == b"edgemesh bundle manifest 1\n"
    assert signed(data)[16:24] == struct.pack(">II", 96, len(data))
    assert read_manifest(signed(data), KEYS) == manifest()


def test_cut_off_anywhere_it_is_none() -> None:
    for size in range(SIZE):
        with pytest.raises(BundleError):
            read_manifest(WHOLE[:size], KEYS)


def test_one_byte_of_the_head_altered_and_it_is_none() -> None:
    for at in range(SIZE):
        for bit in (1, 0x80):
            wrong = WHOLE[:at] + bytes([WHOLE[at] ^ bit]) + WHOLE[at + 1 :]
            with pytest.raises(BundleError):
                read_manifest(wrong, KEYS)


@given(st.binary(max_size=400))
def test_noise_is_none(noise: bytes) -> None:
    for data in (noise, MAGIC + noise, WHOLE[:HEAD] + noise):
        with pytest.raises(BundleError):
            read_manifest(data, KEYS)


@pytest.mark.parametrize(
    ("signatures", "size"),
    [(0, 9), (95, 9), (97, 9), (96 * 9, 9), (96, 0), (96, 65537), (2**32 - 32, 9), (96, 2**32 - 1)],
)
def test_sizes_that_make_no_sense(signatures: int, size: int) -> None:
    with pytest.raises(BundleError, match="makes no sense"):
        read_head(MAGIC + struct.pack(">II", signatures, size))


def test_a_signature_of_another_bundle_is_none() -> None:
    other = write_head(manifest("6.6", 66), [key()])
    mixed = WHOLE[:HEAD] + other[HEAD : HEAD + 96] + WHOLE[HEAD + 96 :]
    with pytest.raises(BundleError, match="altered, or cut and pasted"):
        read_manifest(mixed, KEYS)


def test_a_signature_over_something_else_is_none() -> None:
    """The key may have signed the same bytes for another purpose."""
    data = altered()
    bare = MAGIC + struct.pack(">II", 96, len(data)) + module.key_id(public()) + key().sign(data) + data
    with pytest.raises(BundleError, match="signature is wrong"):
        read_manifest(bare, KEYS)


def test_a_signature_under_another_keys_name_is_none() -> None:
    renamed = signed(altered(), [2]).replace(module.key_id(public(2)), module.key_id(public(1)))
    with pytest.raises(BundleError, match="signature is wrong"):
        read_manifest(renamed, KEYS)


def test_keys_that_are_not_trusted_are_named() -> None:
    with pytest.raises(
        BundleError, match=f"none of the keys that this box trusts.*{module.key_id(public()).hex()[:8]}"
    ):
        read_manifest(WHOLE, [public(2)])
    with pytest.raises(BundleError, match="none of the keys"):
        read_manifest(WHOLE, [])


def test_one_of_several_signatures_is_enough_and_none_may_be_wrong() -> None:
    several = signed(altered(), [1, 2, 3])
    for number in (1, 2, 3):
        assert read_manifest(several, [public(number)]) == manifest()
    assert read_manifest(several, [public(9), public(3)]) == manifest()
    at = HEAD + 40
    wrong = several[:at] + bytes([several[at] ^ 1]) + several[at + 1 :]
    with pytest.raises(BundleError, match="signature is wrong"):
        read_manifest(wrong, [public(1), public(2)])
    assert read_manifest(wrong, [public(2)]) == manifest(), "what an unknown key signed is nobody's word"
    assert read_manifest(signed(altered(), range(1, 9)), [public(8)]) == manifest()
    with pytest.raises(BundleError, match="makes no sense"):
        read_manifest(signed(altered(), range(1, 10)), [public(9)])


def test_nothing_of_a_manifest_is_read_before_a_signature_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []
    monkeypatch.setattr(module, "_checked", looked.append)
    for data, keys in ((signed(b"\xff not even JSON"), [public(2)]), (signed(altered())[:-1] + b" ", KEYS)):
        with pytest.raises(BundleError):
            read_manifest(data, keys)
    assert looked == []


GOOD_FILE = {"family": "x86_64", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "fields",
    [
        {"version": ""},
        {"version": "x" * 65},
        {"version": "../../etc"},
        {"version": "1/0"},
        {"version": ".new"},
        {"version": "-rf"},
        {"version": "1 0"},
        {"version": "1\n0"},
        {"version": "1\u0660"},
        {"version": 1},
        {"version": ...},
        {"epoch": 0},
        {"epoch": -1},
        {"epoch": "1"},
        {"epoch": 1.5},
        {"epoch": True},
        {"epoch": ...},
        {"minimum": -1},
        {"rollback": -1},
        {"keySerial": -1},
        {"files": []},
        {"files": ...},
        {"files": [GOOD_FILE, GOOD_FILE]},
        {"files": [GOOD_FILE | {"size": 0}]},
        {"files": [GOOD_FILE | {"size": -1}]},
        {"files": [GOOD_FILE | {"size": MOST_FILE + 1}]},
        {"files": [GOOD_FILE | {"sha256": "0" * 63}]},
        {"files": [GOOD_FILE | {"sha256": "0" * 63 + "G"}]},
        {"files": [GOOD_FILE | {"sha256": "A" * 64}]},
        {"files": [GOOD_FILE | {"more": 1}]},
        {"keys": ["0" * 63]},
        {"keys": ["0" * 63 + "x"]},
        {"keys": [1]},
    ],
)
def test_a_signed_manifest_that_makes_no_sense_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        read_manifest(signed(altered(**fields)), KEYS)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"null", b"\xff", b'{"version":"1"', altered() + b"x"])
def test_a_signed_manifest_that_is_no_json_of_ours_is_none(data: bytes) -> None:
    with pytest.raises(BundleError, match="its manifest"):
        read_manifest(signed(data), KEYS)


def test_fields_of_later_versions_pass() -> None:
    assert read_manifest(signed(altered(notes="https://", stages=[1, {"a": None}])), KEYS) == manifest()


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(BundleError, match=r"nothing for this CPU \(riscv64\), only for x86_64, aarch64"):
        find(manifest(), read_head(WHOLE), "riscv64")


def test_where_a_file_begins_does_not_overflow() -> None:
    files = tuple(module.File(family, MOST_FILE, "0" * 64) for family in module.FAMILIES)
    head = read_head(WHOLE)
    assert find(Manifest("1", 1, files), head, "loong64")[1] == head.size + 3 * MOST_FILE
    assert whole_size(Manifest("1", 1, files), head) == head.size + 4 * MOST_FILE


def test_what_makes_no_sense_is_not_signed() -> None:
    with pytest.raises(BundleError):
        write_head(manifest("../x"), [key()])
    with pytest.raises(BundleError):
        write_head(manifest(), [])


@pytest.mark.parametrize("nested", [b"[" * 30_000, b'{"x":' * 10_000])
def test_a_signed_manifest_without_end_in_depth_is_refused(nested: bytes) -> None:
    with pytest.raises(BundleError, match="its manifest"):
        read_manifest(signed(nested), [public()])
