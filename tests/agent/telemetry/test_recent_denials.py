"""What a node remembers of refusals, and whose word finds it."""

from __future__ import annotations

from typing import Any

from agent.telemetry.recent_denials import RecentDenials
from nodeproxy.telemetry.record import Record
from policy.model import Workload


def record(id_: str, trace: str = "", flag: str = "denied", **more: Any) -> Record:
    fields: dict[str, Any] = {
        "kind": "request",
        "direction": "outbound",
        "started": 0.0,
        "duration": 0.0,
        "source": None,
        "source_address": "10.0.0.1",
        "destination": None,
        "service": "",
        "dialled": "10.0.0.2:80",
        "endpoint": "",
        "protocol": "http",
        "flag": flag,
        "id": id_,
        "trace": trace,
    }
    return Record(**(fields | more))


def remember(*records: Record, most: int = 10) -> RecentDenials:
    refusals = RecentDenials("edge-1", most)
    for one in records:
        refusals(one)
    return refusals


def details(refusals: RecentDenials, id_: str) -> list[object]:
    return [found["detail"] for found in refusals.find(id_)]


def test_what_was_refused_is_found_by_its_id() -> None:
    refusals = remember(record("a", detail="1"), record("b", detail="2"), record("a", detail="3"))
    assert details(refusals, "a") == ["1", "3"]
    assert details(refusals, "c") == []


def test_what_went_well_or_has_no_id_is_not_remembered() -> None:
    refusals = remember(record("a", flag=""), record("", trace="t"))
    assert (refusals.find("a"), refusals.find("t"), refusals.find("")) == ([], [], [])


def test_who_said_no() -> None:
    found = remember(record("a"), record("a", direction="inbound"), record("a", flag="peer-refused")).find("a")
    assert [one["refused_by"] for one in found] == [
        "this node, for the caller",
        "this node, for the server",
        "the other node",
    ]
    assert found[0]["node"] == "edge-1"


def test_a_callers_trace_id_finds_what_no_id_of_ours_does() -> None:
    refusals = remember(record("a", trace="t", detail="1"), record("b", trace="t", detail="2"))
    assert details(refusals, "t") == ["1", "2"]
    assert refusals.find("t")[0]["trace"] == "t"


def test_nobody_writes_under_the_id_of_anothers_refusal() -> None:
    """Not before it, not beside it, and however often."""
    first = [record(f"x{number}", trace="a", detail="forged") for number in range(9)]
    refusals = remember(*first, record("a", detail="true"), *first)
    assert details(refusals, "a") == ["true"]


def test_memory_is_bounded_for_ids_and_for_traces() -> None:
    refusals = remember(*(record(str(number), trace=f"t{number % 3}") for number in range(100)), most=10)
    assert len(refusals._by_id) == 10
    assert len(refusals.find("t0")) == 4
    refusals = remember(*(record(str(number), trace=f"t{number}") for number in range(100)), most=10)
    assert len(refusals._by_trace) == 10
    assert (refusals.find("t89"), len(refusals.find("t90"))) == ([], 1)


def test_one_callers_flood_pushes_out_only_his_own() -> None:
    flood, quiet = Workload("shop", "flood", "flood"), Workload("shop", "quiet", "quiet")
    refusals = remember(
        record("mine", source=quiet, trace="t"), *(record(f"{number}", source=flood) for number in range(100))
    )
    assert details(refusals, "mine") == [""]
    assert details(refusals, "99") == [""]
    assert details(refusals, "1") == []
    for number in range(20):
        refusals(record(f"more {number}", source=quiet))
    assert len(refusals.find("99")) == 1, "nor does the other, once it floods"
    assert len(refusals._by_id) == 10
