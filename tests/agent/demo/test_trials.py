"""Which curls each step makes, and how their outcome is judged."""

from __future__ import annotations

import stat

import pytest

from agent.demo.plan import HOSTS, hosts
from agent.demo.steps import STEPS
from agent.demo.trials import STORE, Trial, attempt, crossing, judge, trials

BY_NAME = {host.name: host for host in HOSTS}
OK = "HTTP/1.1 200 OK\r\nidentity: bookstore-v1\r\n\r\n<html>"
DENIED = "HTTP/1.1 403 Forbidden\r\nX-Edgemesh-Reason: denied\r\n\r\nno"
FORBIDDEN = "HTTP/1.1 403 Forbidden\r\nserver: nginx\r\n\r\nno"
UNREACHABLE = "HTTP/1.1 503 Service Unavailable\r\nx-edgemesh-reason: peer-lost\r\n\r\n"
GREETING = "J\x00\x00\x00\n5.5.5-10.11.19-MariaDB"


@pytest.mark.parametrize(
    ("wanted", "output", "holds"),
    [
        ("answered", OK, True),
        ("answered", DENIED, False),
        ("answered", "", False),
        ("denied", DENIED, True),
        ("denied", FORBIDDEN, False),  # somebody's 403, not ours
        ("denied", OK, False),
        ("denied", "", False),
        ("refused", "", True),
        ("refused", DENIED, True),
        ("refused", OK, False),
        ("refused", GREETING, False),
        ("greeted", GREETING, True),
        ("greeted", "", False),
        ("greeted", DENIED, False),
        ("closed", "", True),
        ("closed", DENIED, True),
        ("closed", OK, False),
        ("closed", FORBIDDEN, False),
        ("unreachable", UNREACHABLE, True),
        ("unreachable", "HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        ("unreachable", OK, False),
        ("unreachable", "", False),
    ],
)
def test_an_outcome_is_judged_by_what_was_wanted(wanted, output, holds):
    assert (judge(Trial("a", "b", (), wanted), output, "curl: (56)") == "") is holds


def test_what_went_wrong_is_said():
    assert judge(Trial("bookthief", STORE, (), "denied"), OK, "") == "expected 403 with x-edgemesh-reason, got 200"
    assert (
        judge(Trial("a", "b", (), "answered"), "", "curl: (6) no such host")
        == "expected 200, got no answer (curl: (6) no such host)"
    )


def test_every_step_tries_a_stranger_over_both_families():
    for step in STEPS:
        strangers = [trial for trial in trials(step, BY_NAME, ipv6=True) if trial.who == "outsider"]
        assert [trial.wanted for trial in strangers] == ["refused", "refused"]
        assert "[" in strangers[1].words[-1]


@pytest.mark.parametrize(
    ("number", "wanted"), [(1, "answered"), (2, "denied"), (3, "denied"), (4, "answered"), (5, "denied"), (9, "denied")]
)
def test_the_thief_in_disguise_follows_the_step(number, wanted):
    found = {
        trial.wanted
        for trial in trials(STEPS[number - 1], BY_NAME, ipv6=True)
        if trial.who == "bookthief" and "client-app: bookbuyer" in trial.words
    }
    assert found == {wanted}


def test_under_policy_nobody_but_the_stores_reaches_what_is_behind_them():
    for step in STEPS[1:]:
        behind = [
            trial
            for trial in trials(step, BY_NAME, ipv6=False)
            if "bookwarehouse" in trial.whom or trial.whom == "mysql"
        ]
        assert {(trial.who, trial.wanted) for trial in behind} == {
            (who, wanted) for who in ("bookbuyer", "bookthief") for wanted in ("denied", "refused")
        }


def test_between_two_nodes_a_stranger_tries_the_tunnel_doors():
    two = {host.name: host for host in hosts(2)}
    for step in STEPS:
        doors = {trial.words[-1] for trial in trials(step, two, ipv6=True) if trial.wanted == "closed"}
        assert {
            f"{scheme}://{door}:15008/"
            for scheme in ("http", "https")
            for door in ("10.71.2.13", "[fd71:656d:2::13]", "10.71.0.2")
        } == doors
        assert not [trial for trial in trials(step, BY_NAME, ipv6=True) if trial.wanted == "closed"]
    assert two["bookbuyer"].site != two["bookstore-v1"].site
    assert (crossing(up=True).wanted, crossing(up=False).wanted) == ("answered", "unreachable")


def test_without_ipv6_no_ipv6_address_is_tried():
    assert not [trial for trial in trials(STEPS[0], BY_NAME, ipv6=False) if "[" in trial.whom]


def test_curl_runs_in_the_namespace_of_the_one_who_tries(tmp_path, monkeypatch):
    program = tmp_path / "ip"
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/seen\nprintf '{DENIED}'\n".replace("\r\n", "\\r\\n"))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert attempt(Trial("bookthief", STORE, (STORE,), "denied"), "em-bookthief") == ""
    seen = (tmp_path / "seen").read_text().split()
    assert seen[:4] == ["netns", "exec", "em-bookthief", "curl"]
    assert seen[-1] == STORE
