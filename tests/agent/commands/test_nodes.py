"""The nodes of a cluster, asked through its API server: one table over all of them, and who did not answer."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import trio
from rich.console import Console

from agent.admin.api import handler
from agent.cli import main
from agent.commands import nodes, nodes_shown
from agent.http.server import HttpRequest
from policy.model import Problem, Where
from tests.agent.kubernetes.fake import Asked
from tests.agent.kubernetes.objects import Cluster, Page

Captured = pytest.CaptureFixture[str]
ALL = "--all-nodes"


def answering(daemon: Any, *targets: str) -> Page:
    """Return what this daemon answers to these targets, now: the cluster's own loop cannot run it."""
    found = {}
    for target in targets or ("/status", "/certs", "/connections"):
        path, _, query = target.partition("?")
        asked = tuple(parse_qsl(query))
        reply = trio.run(handler(daemon), HttpRequest(path, asked))
        found[path, asked] = reply.status, json.loads(reply.body)
    return lambda asked, path: found[path, tuple(asked.query.items())]


def lines(capsys: Captured) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def two(cluster: Cluster, daemon: Any) -> Cluster:
    cluster.add("/api/v1/nodes/n1")
    cluster.add("/api/v1/nodes/n2")
    cluster.daemon("n1", answering(daemon), "server")
    cluster.daemon("n2", answering(daemon))
    return cluster


def test_each_node_gets_a_token_that_is_good_for_it_alone(two: Cluster, capsys: Captured) -> None:
    main(["connections", ALL])
    assert sorted(two.tokens, key=str) == [
        {
            "path": "/api/v1/namespaces/edgemesh-system/serviceaccounts/edgemesh-viewer/token",
            "audiences": [f"edgemesh.io/status/{node}"],
            "expirationSeconds": 600,
        }
        for node in ("n1", "n2")
    ]
    shown = {}
    for asked in two.asked:
        if "/proxy" in asked.path:
            assert asked.query == {}
            claims = asked.fields["edgemesh-token"].split(".")[1]
            shown[asked.path] = json.loads(base64.urlsafe_b64decode(claims + "==="))["aud"]
    pods = "/api/v1/namespaces/edgemesh-system/pods/https:edgemesh"
    assert shown == {
        f"{pods}-server-n1:15019/proxy/connections": ["edgemesh.io/status/n1"],
        f"{pods}-agent-n2:15019/proxy/connections": ["edgemesh.io/status/n2"],
    }


def test_status_of_all_nodes(two: Cluster, daemon: Any, capsys: Captured) -> None:
    daemon.standings["shop/store-v1"] = daemon.standings["shop/buyer"]
    two.daemon("n2", answering(daemon))
    same = Problem("warning", Where(), "TrafficTarget shop/buying", "it is odd", "write it otherwise")
    daemon.problems = (same,)
    two.daemon("n1", answering(daemon), "server")
    assert main(["status", ALL]) == 0
    found = lines(capsys)
    assert found[0].split()[:3] == ["NODE", "STATE", "VERSION"]
    assert [line.split()[:2] for line in found[1:3]] == [["n1", "enforcing"], ["n2", "enforcing"]]
    assert "3 of 3" in found[1]
    assert found[1].endswith("1 warning")
    assert found[2].endswith("no problems")
    assert found[4:] == ["warning on n1: TrafficTarget shop/buying: it is odd", "    write it otherwise"]


def test_what_is_wrong_is_told_once_with_its_nodes(two: Cluster, daemon: Any, capsys: Captured) -> None:
    daemon.problems = (Problem("error", Where(), "", "no clock", ""), Problem("warning", Where(), "", "rain", ""))
    daemon.state = "degraded"
    for node in ("n1", "n2"):
        two.daemon(node, answering(daemon), "server" if node == "n1" else "agent")
    assert main(["status", ALL]) == 1
    found = lines(capsys)
    assert found[-2:] == ["error on all nodes: no clock", "warning on all nodes: rain"]
    at = found.index(next(line for line in found if line.startswith("NOT CAPTURED")))
    assert [line.split() for line in found[at + 1 : at + 3]] == [
        ["shop/store-v1", "shop/store", "n1"],
        ["shop/store-v1", "shop/store", "n2"],
    ]


def test_nodes_that_do_not_answer_are_named_with_the_reason(two: Cluster, daemon: Any, capsys: Captured) -> None:
    for node in ("n3", "n4", "n5"):
        two.add(f"/api/v1/nodes/{node}")
    two.daemon("n3")  # nothing listens
    two.daemon("n4", lambda asked, path: (403, {"error": "the API server does not vouch for this token", "hint": "so"}))
    daemon.standings["shop/store-v1"] = daemon.standings["shop/buyer"]
    two.daemon("n1", answering(daemon), "server")
    assert main(["status", ALL]) == 1
    found = lines(capsys)
    at = found.index(next(line for line in found if line.startswith("NO ANSWER FROM")))
    assert found[at - 3 : at] == ["n4: the API server does not vouch for this token", "    so", ""]
    assert [line.split(maxsplit=1) for line in found[at + 1 : at + 4]] == [
        ["n3", "its daemon does not answer: dial tcp 10.0.0.1:15019: connect: connection refused"],
        ["kubectl", "logs --namespace edgemesh-system edgemesh-agent-n3 tells more"],
        ["n5", "no pod of edgemesh runs there: its DaemonSet selects other nodes, or does not tolerate this one"],
    ]
    assert main(["status", ALL, "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(one["node"], bool(one["document"]), bool(one["error"])) for one in document] == [
        ("n1", True, False),
        ("n2", True, False),
        ("n3", False, True),
        ("n4", False, True),
        ("n5", False, True),
    ]
    assert document[0]["document"]["workloads"][0]["workload"] == "shop/buyer"


def test_nobody_answers(cluster: Cluster, capsys: Captured) -> None:
    assert main(["status", ALL]) == 1
    assert capsys.readouterr().err == (
        "edgemesh: no daemon of edgemesh runs in namespace edgemesh-system\n"
        "  edgemesh mesh list shows where one does, --mesh-namespace NS names another; edgemesh install brings it\n"
    )
    cluster.daemon("n1")
    assert main(["connections", ALL]) == 3
    assert lines(capsys)[0].startswith("NO ANSWER FROM")


def test_no_open_connection_is_said_of_the_nodes_that_answered(two: Cluster, daemon: Any, capsys: Captured) -> None:
    two.daemon("n1", lambda *_: (200, []), "server")
    two.daemon("n2", lambda *_: (200, []))
    assert main(["connections", ALL]) == 0
    assert lines(capsys) == ["no connection is open on all nodes"]
    two.daemon("n3")  # nothing listens
    assert main(["connections", ALL]) == 1
    assert lines(capsys)[0] == "no connection is open on n1, n2"


def test_all_nodes_and_one_are_two_questions(two: Cluster, capsys: Captured) -> None:
    assert main(["status", ALL, "--node", "n1"]) == 2
    assert capsys.readouterr().err == "edgemesh: --all-nodes and --node name different nodes\n  give one of them\n"
    assert not two.asked


def test_what_every_node_refuses_is_said_once_and_not_as_silence(two: Cluster, daemon: Any, capsys: Captured) -> None:
    query = "/explain?src=shop%2Fbuyr&dst=store-v1"
    for node in ("n1", "n2"):
        two.daemon(node, answering(daemon, query), "server" if node == "n1" else "agent")
    assert main(["explain", "shop/buyr", "store-v1", ALL]) == 1
    found = lines(capsys)
    assert found[0] == "all nodes: there is no workload 'shop/buyr'"
    assert found[1].startswith("    did you mean shop/buyer?")
    assert len(found) == 2


def test_calls_are_counted_where_their_workloads_are(two: Cluster, daemon: Any, capsys: Captured) -> None:
    assert main(["status", ALL, "-o", "json"]) in (0, 1)
    answers = [nodes.Answer(one["node"], document=one["document"]) for one in json.loads(capsys.readouterr().out)]
    for one in answers[0].document["workloads"]:
        local = one["state"] != "elsewhere"
        none = dict.fromkeys(one["traffic"], 0)
        one["traffic"] = none | ({"requests_out": 2, "denied_out": 1} if local else {"requests_in": 2, "denied_in": 1})
    here = sum(one["state"] != "elsewhere" for one in answers[0].document["workloads"])
    assert here < len(answers[0].document["workloads"])
    console = Console(width=200)
    with console.capture() as captured:
        for one in nodes_shown.status(answers[:1]):
            console.print(one)
    names, values = (re.split(r"\s{2,}", line.strip()) for line in captured.get().splitlines()[:2])
    found = dict(zip(names, values, strict=True))
    assert (found["OUT"], found["IN"], found["DENIED"]) == (str(2 * here), "0", str(here))


def test_routes_of_one_node_and_of_all(two: Cluster, daemon: Any, capsys: Captured) -> None:
    for node in ("n1", "n2"):
        two.daemon(node, answering(daemon, "/routes"), "server" if node == "n1" else "agent")
    assert main(["routes", "--node", "n2"]) == 0
    one = lines(capsys)
    assert one[0].startswith("SERVICE")
    assert main(["routes", ALL]) == 0
    assert lines(capsys) == ["on node n1:", *one, "", "on node n2:", *one]


def test_the_table_of_all_nodes_fits_a_terminal_of_80_columns(two: Cluster, capsys: Captured) -> None:
    assert main(["status", ALL, "-o", "json"]) in (0, 1)
    answers = [nodes.Answer(one["node"], document=one["document"]) for one in json.loads(capsys.readouterr().out)]
    worst = [("error", 12), ("warning", 34), ("notice", 56)]
    answers[0].document["problems"] = [
        {"severity": severity, "object": "", "message": str(number), "hint": ""}
        for severity, count in worst
        for number in range(count)
    ]
    answers[0].document["uptime_seconds"] = 23 * 3600 + 59 * 60  # as long as it gets
    console = Console(width=80)
    with console.capture() as captured:
        for one in nodes_shown.status(answers):
            console.print(one)
    shown = captured.get().splitlines()
    assert shown[0].split()[:4] == ["NODE", "STATE", "VERSION", "UP"]
    assert [line.split()[0] for line in shown if re.match(r"n\d", line)] == ["n1", "n2"]


def test_one_node_is_shown_as_its_own_daemon_shows_it(two: Cluster, daemon: Any, asked: Any, capsys: Captured) -> None:
    code = main(["certs"])
    here = capsys.readouterr().out
    assert main(["certs", "--node", "n2"]) == code
    assert capsys.readouterr().out == here
    assert main(["certs", "--node", "n2", "-o", "json"]) == code
    there = json.loads(capsys.readouterr().out)
    main(["certs", "-o", "json"])
    assert there == json.loads(capsys.readouterr().out)
    assert main(["certs", "--node", "n3"]) == 1
    assert capsys.readouterr().err == (
        "edgemesh: no daemon of edgemesh runs on a node 'n3'\n  did you mean n2? there is n1, n2\n"
    )
    two.daemon("n3")
    assert main(["certs", "--node", "n3"]) == 3
    assert capsys.readouterr().err.startswith("edgemesh: node n3: its daemon does not answer: dial tcp")


def test_explain_on_all_nodes(two: Cluster, daemon: Any, capsys: Captured) -> None:
    query = "/explain?src=shop%2Fbuyer&dst=store-v1&method=GET&path=%2Fbuy"
    other = "/explain?src=shop%2Fthief&dst=store-v1"
    for node in ("n1", "n2"):
        two.daemon(node, answering(daemon, query, other), "server" if node == "n1" else "agent")
    assert main(["explain", "shop/buyer", "store-v1", "--path", "/buy", "--method", "GET", ALL]) == 0
    found = lines(capsys)
    assert [line.split()[:2] for line in found[1:3]] == [["n1", "allowed"], ["n2", "allowed"]]
    assert "TrafficTarget shop/buying" in found[1]
    assert found[4] == "on node n1:"
    assert found[5].startswith("allowed: shop/buyer -> shop/store-v1")
    assert main(["explain", "shop/thief", "store-v1", ALL]) == 1
    assert [line.split()[:2] for line in lines(capsys)[1:3]] == [["n1", "denied"], ["n2", "denied"]]


def test_explain_keeps_the_headers_of_the_question(two: Cluster, capsys: Captured) -> None:
    said: list[Asked] = []

    def page(asked: Asked, path: str) -> tuple[int, Any]:
        said.append(asked)
        return 404, {"error": "no", "hint": ""}

    two.daemon("n2", page)
    line = ["explain", "a", "b", "--header", "a:1", "--header", "b:2", "--node", "n2"]
    assert main(line) == 1
    assert "node n2: no" in capsys.readouterr().err
    assert said[0].query["header"] == "b:2"  # of both, the fake keeps the last
    assert said[0].target.count("header=") == 2


def test_who_refused_a_request(two: Cluster, daemon: Any, capsys: Captured) -> None:
    unknown = (404, {"error": "no refusal with the id 'x1' here", "hint": ""})
    record = daemon.record("shop/thief", "shop/store-v1", flag="denied", id="x1", method="GET", path="/buy")
    daemon.refusals(record)
    two.daemon("n1", answering(daemon, "/refusals?id=x1"), "server")
    two.daemon("n2", lambda asked, path: unknown)
    assert main(["explain", "--request", "x1", ALL]) == 1
    found = lines(capsys)
    assert found[0].startswith("refused by ")
    assert found[-1] == "not known on n2"
    (ask,) = (line for line in found if line.startswith("ask "))
    assert ask.endswith("--method GET --path /buy --all-nodes")
    main(["explain", "--request", "x1", "--node", "n1"])
    assert any(line.endswith("--method GET --path /buy --node n1") for line in lines(capsys))
    two.daemon("n1", lambda asked, path: unknown, "server")
    assert main(["explain", "--request", "x1", ALL]) == 1
    assert lines(capsys) == [
        "no node knows a refusal with this id: each forgets the oldest, and all when its daemon restarts"
    ]


def test_rights_that_are_missing_are_told_once(two: Cluster, capsys: Captured) -> None:
    for right in (("create", "serviceaccounts/token"), ("get", "pods/proxy"), ("list", "pods")):
        two.forbidden = {right}
        assert main(["status", ALL]) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith(f"edgemesh: ann may not {right[0]} {right[1]} in namespace edgemesh-system\n")
    two.forbidden = {("list", "nodes"), ("list", "nodeconfigs")}  # they are not needed
    assert main(["connections", ALL]) == 0


def test_the_port_is_that_of_the_node_s_config(two: Cluster, capsys: Captured) -> None:
    two.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/default", spec={"kubernetes": {"door": 1000}})
    two.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/n2", spec={"kubernetes": {"door": 2000}})
    two.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/n1", spec={"metered": True})
    main(["connections", ALL])
    asked = sorted(one.path.split("/")[6] for one in two.asked if "/proxy" in one.path)
    assert asked == ["https:edgemesh-agent-n2:2000", "https:edgemesh-server-n1:1000"]


def test_an_installation_without_its_account(two: Cluster, capsys: Captured) -> None:
    two.broken_tokens = True
    assert main(["status", ALL]) == 1
    assert capsys.readouterr().err == (
        "edgemesh: namespace edgemesh-system has no ServiceAccount edgemesh-viewer, for which readers' tokens are made\n"
        "  edgemesh install brings it\n"
    )


def test_the_cluster_is_asked_only_when_the_line_says_so(two: Cluster, tmp_path: Path, capsys: Captured) -> None:
    socket = str(tmp_path / "s")
    assert main(["status", "--socket", socket]) == 3
    assert capsys.readouterr().err.endswith("  or ask the nodes of the cluster: --all-nodes, --node NAME\n")
    assert two.asked == []
