"""One record, closed once."""

import pytest

from nodeproxy.telemetry.record import Record, Report


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


@pytest.mark.parametrize(("direction", "peer"), [("inbound", "spiffe://x/ns/a/sa/b"), ("outbound", "")])
def test_a_request_takes_from_its_connection_what_it_is_of(direction, peer):
    of = Record.of_connection(direction, 1.0, None, "10.0.0.1", None, "10.0.0.2:80")
    assert (of.kind, of.direction, of.started, of.source_address, of.dialled) == (
        "connection",
        direction,
        1.0,
        "10.0.0.1",
        "10.0.0.2:80",
    )
    of.service, of.tls_peer, of.bytes_in, of.id = "shop/store", "spiffe://x/ns/a/sa/b", 7, "a" * 32
    request = of.of_request(2.0, "http", "GET")
    assert (request.kind, request.protocol, request.method, request.started) == ("request", "http", "GET", 2.0)
    assert (request.service, request.source_address, request.dialled) == ("shop/store", "10.0.0.1", "10.0.0.2:80")
    assert request.tls_peer == peer, (
        "who the other end proved to be is of the call that came in, and not of the one that goes out"
    )
    assert (request.bytes_in, request.id) == (0, ""), "what was counted and refused is each one's own"
