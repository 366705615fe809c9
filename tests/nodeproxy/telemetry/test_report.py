"""One record, closed once."""

import pytest

from nodeproxy.telemetry.report import Record, Report


def _record() -> Record:
    return Record("request", "outbound", 0.0, 0.0, None, "10.0.0.1", None, "", "10.0.0.2:80", "", "http")


def test_close_hands_the_record_over_once():
    seen = []
    report = Report(seen.append, _record())
    report.close("denied", "no-rule: x", 403)
    assert [(r.flag, r.detail, r.status) for r in seen] == [("denied", "no-rule: x", 403)]
    assert seen[0].duration >= 0
    with pytest.raises(AssertionError, match="closed once"):
        report.close()
    assert len(seen) == 1


def test_close_keeps_a_status_that_was_set():
    seen = []
    report = Report(seen.append, _record())
    report.record.status = 200
    report.close()
    assert (seen[0].status, seen[0].flag) == (200, "")
