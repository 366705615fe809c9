"""What is read from the conformance suite's own output: a failure that is not seen would be a success."""

from __future__ import annotations

from pathlib import Path

from tests.kube.gateway.conformance import Outcome, outcomes, summary

LOG = """=== RUN   TestConformance/MeshTrafficSplit
=== RUN   TestConformance/MeshTrafficSplit/v2
    http.go:12: 2026-11-30T23:00:00.1Z: Response expectation failed: not ready yet: got echo-v1 (after 4s)
--- FAIL: TestConformance (20.00s)
    --- PASS: TestConformance/MeshBasic (2.00s)
    --- FAIL: TestConformance/MeshTrafficSplit (1.00s)
        --- FAIL: TestConformance/MeshTrafficSplit/v2 (9.50s)
    --- SKIP: TestConformance/MeshPorts (0.00s)
"""
REPORT = """profiles:
- name: MESH-HTTP
  core:
    result: {result}
    statistics: {{Passed: 6, Failed: {failed}, Skipped: 0}}
  extended:
    result: success
    statistics: {{Passed: 2, Failed: 0, Skipped: 0}}
"""


def test_outcomes_are_read_with_what_a_failure_complained_of() -> None:
    basic, split, ports = outcomes(LOG)
    assert basic == Outcome("MeshBasic", "PASS", 2.0)
    assert (split.result, split.seconds) == ("FAIL", 9.5), "a part that ended later counts"
    assert split.complaint == "Response expectation failed: not ready yet: got echo-v1 (after 4s)"
    assert ports.result == "SKIP"


def test_a_report_counts_as_good_only_with_every_core_test_passed(tmp_path: Path) -> None:
    report = tmp_path / "MESH-HTTP.yaml"
    good, (line,) = summary(report)
    assert (good, "wrote no report" in line) == (False, True)
    report.write_text(REPORT.format(result="partial", failed=1))
    assert not summary(report)[0]
    report.write_text("profiles: null\n")
    assert summary(report) == (False, ["MESH-HTTP: its tests are counted by no profile"])
    report.write_text(REPORT.format(result="success", failed=0))
    good, (line,) = summary(report)
    assert good
    assert line == "MESH-HTTP      core: 6 passed, 0 failed, 0 skipped  extended: 2 passed, 0 failed, 0 skipped"
