"""NodeConfig: every field can be wrong, and none of them stops the node."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config.checks import parse_address
from agent.config.schema import API_VERSION, KIND, AuthorityConfig, Http2, IdentityConfig, NodeConfig
from agent.config.settings import Environment, Settings, environment, is_node_config, waiting, wrong_overrides
from agent.sources import manifest
from nodeproxy.limits import Limits, PeerLimits
from policy.model import Node, Where
from policy.resources import RawObject


def objects(*specs: str, name: str = "default") -> list[RawObject]:
    """NodeConfigs with these specs (flow style), each in a file of its own."""
    found = []
    for number, spec in enumerate(specs):
        text = f"apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        found += manifest.read(text.encode(), f"{name}{number}.yaml").objects or ()
    return found


def read(*raws: RawObject, **overrides: Any) -> tuple[NodeConfig, list[str]]:
    settings = Settings(overrides, host="box")
    problems = settings.read(raws)
    return settings.config, [str(problem) for problem in problems]


def test_defaults() -> None:
    config, problems = read()
    assert problems == []
    assert (config.node, config.state_dir, config.admin_socket) == (
        "box",
        "/var/lib/edgemesh",
        "/run/edgemesh/edgemesh.sock",
    )
    assert (config.metrics_address, config.on_stop, config.access_log) == ("", "closed", "failed")
    assert config.limits == Limits()


def test_every_field_can_be_set() -> None:
    spec = (
        "{node: n1, stateDir: /s, adminSocket: /a, metricsAddress: '[::1]:9', metricsTokenFile: /t, metricsRows: 5, serviceRange: [10.0.0.0/8], "
        "dns: {enabled: false, ttl: 1}, onStop: open, accessLog: all, pollInterval: 0.5, limits: {headBytes: 9, headTimeout: 1}, "
        "ports: {outbound: 1}, marks: {local: 7}}"
    )
    config, problems = read(*objects(spec))
    assert problems == []
    assert (config.node, config.dns.enabled, config.dns.ttl, config.limits.head_bytes, config.limits.head_timeout) == (
        "n1",
        False,
        1,
        9,
        1.0,
    )
    assert (config.service_range, config.ports.outbound, config.ports.inbound, config.marks.local) == (
        ("10.0.0.0/8",),
        1,
        15006,
        7,
    )
    assert (config.metrics_rows, config.poll_interval, config.on_stop, config.access_log) == (5, 0.5, "open", "all")


def test_an_address_for_metrics_without_a_token_is_a_warning_where_it_stands() -> None:
    config, problems = read(*objects("{metricsAddress: '127.0.0.1:15020'}"))
    assert config.metrics_token_file == ""
    (problem,) = problems
    assert problem.startswith(
        "default0.yaml:4: warning: NodeConfig default: spec.metricsAddress: nobody is answered at 127.0.0.1:15020"
    )
    assert "metricsTokenFile" in problem
    token = objects("{metricsTokenFile: /t}", name="box")
    assert read(*objects("{metricsAddress: '127.0.0.1:15020'}"), *token)[0].metrics_token_file == "/t"


def test_the_node_s_own_config_is_laid_over_default() -> None:
    both = objects("{accessLog: all, limits: {headBytes: 9, pathBytes: 9}}") + objects(
        "{limits: {headBytes: 8}}", name="box"
    )
    config, problems = read(*both, *objects("{accessLog: 'off'}", name="other"))
    assert problems == []
    assert (config.access_log, config.limits.head_bytes, config.limits.path_bytes) == ("all", 8, 9)


def test_the_default_config_may_name_the_node() -> None:
    config, _ = read(*objects("{node: n1}"), *objects("{accessLog: all}", name="n1"))
    assert (config.node, config.access_log) == ("n1", "all")


def test_the_command_line_wins() -> None:
    config, _ = read(
        *objects("{node: n1, accessLog: all}"), *objects("{stateDir: /mine}", name="n2"), node="n2", access_log="off"
    )
    assert (config.node, config.access_log, config.state_dir) == ("n2", "off", "/mine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{acessLog: all}", "unknown field spec.acessLog (did you mean accessLog?)"),
        ("{dns: {tls: 1}}", "unknown field spec.dns.tls (did you mean ttl?)"),
        ("{zzz: 1}", "unknown field spec.zzz (known here: node, "),
        (
            "{accessLog: loud}",
            "spec.accessLog: 'loud' is not known; known are off, denied, failed, all (in force: \"failed\")",
        ),
        ("{metricsAddress: localhost}", "spec.metricsAddress: is not ADDRESS:PORT"),
        ("{marks: {probe: 3}}", "spec.marks: probe (0x3) must be a single bit"),
        ("{marks: {probe: 2}}", "spec.marks: probe (0x2) must be a single bit that neither local nor bypass has"),
        ("{metricsTokenFile: token}", "spec.metricsTokenFile: is not an absolute path"),
        ("{metricsRows: 0}", "spec.metricsRows: expected a whole number >= 1"),
        ("{pollInterval: 0}", "spec.pollInterval: expected a number > 0.0"),
        ("{limits: 7}", "spec.limits: expected a mapping, got 7"),
        ("{limits: {headBytes: many}}", "spec.limits.headBytes: expected a whole number, got 'many'"),
        ("{limits: {headTimeout: -1}}", "spec.limits.headTimeout: must be more than 0 (in force: 10.0)"),
        ("{limits: {idleTimeout: -1}}", "spec.limits.idleTimeout: must be more than 0 (in force: 3600.0)"),
        ("{limits: {headBytes: true}}", "spec.limits.headBytes: expected a whole number, got true"),
        ("{ports: {outbound: 70000}}", "spec.ports: a port is a number from 1 to 65535"),
        ("{ports: {outbound: 15006}}", "spec.ports: two doors with the same port"),
        ("{marks: {local: 0}}", "spec.marks: marks and the table are numbers from 1"),
        ("{marks: {local: 5, bypass: 5}}", "spec.marks: the marks local and bypass must differ"),
        ("{serviceRange: [10.0.0.1/8]}", "spec.serviceRange: 10.0.0.1/8 has host bits set"),
        ("{serviceRange: []}", "spec.serviceRange: names no network"),
        ("{stateDir: here}", "spec.stateDir: is not an absolute path"),
        ("{node: 'Not A Name'}", "spec.node: is no DNS name"),
        ("7", "spec is not a mapping"),
        ("{addresses: [10.0.0.0/8]}", "spec.addresses: '10.0.0.0/8' is no IP address"),
        ("{addresses: [box.example]}", "spec.addresses: 'box.example' is no IP address"),
        ("{addresses: [0.0.0.0]}", "0.0.0.0 is no address that other nodes could dial"),
        ("{addresses: ['fe80::1%eth0']}", "is no address that other nodes could dial"),
        ("{addresses: ['FD00::01']}", "FD00::01 is written fd00::1"),
        ("{addresses: [10.0.0.1, 10.0.0.1]}", "an address stands twice"),
        ("{addresses: 10.0.0.1}", "spec.addresses: expected a list, got '10.0.0.1'"),
        ("{metered: 1}", "spec.metered: expected true or false, got 1"),
        ("{identity: {lifetime: 0}}", "spec.identity.lifetime: expected a number > 0.0"),
        ("{identity: {lifetime: 3600}}", "spec.identity: refresh must be shorter than lifetime"),
        ("{identity: {tolerance: -1}}", "spec.identity.tolerance: expected a number >= 0.0"),
        ("{identity: {lifetme: 1}}", "unknown field spec.identity.lifetme (did you mean lifetime?)"),
        ("{identity: {authority: ca.example}}", "spec.identity.authority: is not HOST:PORT"),
        ("{identity: {authority: '10.0.0.300:1'}}", "spec.identity.authority: is not HOST:PORT"),
        ("{identity: {authority: '::1:1'}}", "spec.identity.authority: is not HOST:PORT"),
        ("{authority: {listen: ''}}", "spec.authority.listen: is not ADDRESS:PORT"),
        ("{authority: {listen: 'ca.example:1'}}", "spec.authority.listen: is not ADDRESS:PORT"),
        ("{http2: {streamWindow: 100}}", "spec.http2.streamWindow: expected a whole number >= 16384"),
        ("{http2: {connectionWindow: 65534}}", "spec.http2.connectionWindow: expected a whole number >= 65535"),
        ("{http2: {streamWindow: 2000000}}", "spec.http2: connectionWindow must be at least streamWindow"),
        ("{http2: {streams: 0}}", "spec.http2.streams: expected a whole number >= 1"),
        ("{peers: {connections: 0}}", "spec.peers.connections: expected a whole number >= 1"),
        ("{peers: {keepalive: 0}}", "spec.peers.keepalive: expected a number > 0.0"),
    ],
)
def test_a_field_that_cannot_be_used_is_a_problem_and_changes_nothing(spec: str, message: str) -> None:
    config, problems = read(*objects(spec))
    assert config == read()[0]
    (problem,) = problems
    assert problem.startswith("default0.yaml:4: error: NodeConfig default: ")
    assert message in problem


def test_other_fields_of_the_same_object_still_count() -> None:
    config, problems = read(*objects("{accessLog: loud, limits: {headBytes: 9, pathBytes: x}}"))
    assert len(problems) == 2
    assert (config.access_log, config.limits.head_bytes, config.limits.path_bytes) == ("failed", 9, 8192)


def test_while_we_run_a_wrong_field_keeps_the_value_that_it_had() -> None:
    settings = Settings(host="box")
    settings.read(objects("{accessLog: all, limits: {headBytes: 9}}"))
    settings.read(objects("{accessLog: loud, limits: {headBytes: x}}"))
    assert (settings.config.access_log, settings.config.limits.head_bytes) == ("all", 9)
    settings.read(objects("{}"))
    assert (settings.config.access_log, settings.config.limits.head_bytes) == ("failed", 65536)


def test_objects_of_the_wrong_form() -> None:
    def one(text: str) -> list[str]:
        return read(*(manifest.read(text.encode(), "x.yaml").objects or ()))[1]

    assert (
        "edgemesh.io/v2 is not read here (write edgemesh.io/v1alpha1)"
        in one("kind: NodeConfig\napiVersion: edgemesh.io/v2")[0]
    )
    assert "no metadata.name" in one("kind: NodeConfig\napiVersion: edgemesh.io/v1alpha1")[0]
    text = "kind: NodeConfig\napiVersion: edgemesh.io/v1alpha1\nmetadata: {name: default}\nnode: x"
    assert one(text) == ["x.yaml:4: error: NodeConfig default: unknown field node (the settings are in spec)"]


def test_two_of_one_name() -> None:
    config, problems = read(*objects("{accessLog: all}", "{accessLog: 'off'}"))
    assert config.access_log == "all"
    assert (
        "default1.yaml:1: error: NodeConfig default: a second NodeConfig of this name; the one at default0.yaml:1 is used"
        in problems[0]
    )


def test_what_waits_for_a_restart() -> None:
    running, _ = read()
    wanted, _ = read(*objects("{stateDir: /new, accessLog: all, limits: {headBytes: 1}}"))
    assert [problem.message for problem in waiting(running, wanted)] == [
        "stateDir changed; it takes effect at the next start"
    ]


def test_only_ours() -> None:
    (raw,) = objects("{}")
    assert is_node_config(raw)
    assert not is_node_config(RawObject({"kind": "NodeConfig", "apiVersion": "other/v1"}, raw.where, {}))
    assert not is_node_config(RawObject({"kind": "Service"}, raw.where, {}))


def test_environment() -> None:
    assert environment({}) == Environment("", "")
    assert environment({"EDGEMESH_SOCKET": "/s", "EDGEMESH_NODE": "n"}) == Environment("/s", "n")


def test_overrides_are_checked() -> None:
    assert wrong_overrides({"node": "n1", "access_log": "all"}) == ""
    assert "--metrics-token-file" in wrong_overrides({"metrics_address": "127.0.0.1:9"})
    assert wrong_overrides({"metrics_address": "127.0.0.1:9", "metrics_token_file": "/t"}) == ""
    assert (
        wrong_overrides({"metrics_address": "x"})
        == "metricsAddress 'x' is not ADDRESS:PORT (an IPv6 address in brackets)"
    )


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("::1:80", None),
        ("[127.0.0.1]:80", None),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.1:٣", None),
        ("host:80", None),
    ],
)
def test_addresses(address: str, found: tuple[str, int] | None) -> None:
    assert parse_address(address) == found


# several nodes


def test_defaults_for_several_nodes() -> None:
    config, _ = read()
    assert (config.addresses, config.metered) == ((), False)
    assert config.identity == IdentityConfig(14 * 86400, 300, 3600, "")
    assert config.authority == AuthorityConfig("0.0.0.0:15012")
    assert config.http2 == Http2(262144, 1048576, 100)
    assert config.peers == PeerLimits(2, 300, 10, 300)


def test_every_field_for_several_nodes_can_be_set() -> None:
    config, problems = read(
        *objects(
            "{addresses: [192.0.2.1, '2001:db8::1'], metered: true, identity: {lifetime: 7200, tolerance: 0, refresh: 60, "
            "authority: 'ca.example:15012'}, authority: {listen: '[::]:1'}, http2: {streamWindow: 65536, connectionWindow: 65536, "
            "streams: 7}, peers: {connections: 3, idleTimeout: 4, keepalive: 5, keepaliveMetered: 6}}"
        )
    )
    assert problems == []
    assert (config.addresses, config.metered) == (("192.0.2.1", "2001:db8::1"), True)
    assert config.identity == IdentityConfig(7200, 0, 60, "ca.example:15012")
    assert (config.authority, config.http2, config.peers) == (
        AuthorityConfig("[::]:1"),
        Http2(65536, 65536, 7),
        PeerLimits(3, 4, 5, 6),
    )


@pytest.mark.parametrize("authority", ["", "10.0.0.1:15012", "[::1]:15012", "ca:1", "ca.example:65535"])
def test_authorities(authority: str) -> None:
    config, problems = read(*objects(f"{{identity: {{authority: '{authority}'}}}}"))
    assert (config.identity.authority, problems) == (authority, [])


def test_how_nodes_are_reached_is_laid_over_default() -> None:
    settings = Settings(host="box")
    problems = settings.read(
        objects("{metered: true, ports: {tunnel: 16000}}")
        + objects("{addresses: [192.0.2.1]}", name="box")
        + objects("{addresses: [192.0.2.2], metered: false, ports: {tunnel: 16001}}", name="n2")
        + objects("{}", name="n3")
    )
    assert problems == []
    expected = (
        Node("box", ("192.0.2.1",), 16000, True),
        Node("n2", ("192.0.2.2",), 16001),
        Node("n3", (), 16000, True),
    )
    assert settings.nodes() == expected
    assert settings.config.addresses == ("192.0.2.1",)
    told = settings.read(objects("{}", name="n3"))
    assert [node.name for node in settings.nodes()] == ["box", "n3"], (
        "a node that is gone is gone; what this one was told stays"
    )
    assert [problem.severity for problem in told] == ["warning", "warning"]
    settings.read(objects("{}", name="n3"), released=settings.kept)
    assert settings.nodes() == (Node("n3"),)


def test_default_alone_is_no_node() -> None:
    settings = Settings(host="box")
    settings.read(objects("{addresses: [192.0.2.1]}"))
    assert settings.nodes() == ()
    assert settings.config.addresses == ("192.0.2.1",)


def test_the_command_line_does_not_speak_for_other_nodes() -> None:
    settings = Settings({"node": "n1", "state_dir": "/x"}, host="box")
    settings.read(objects("{addresses: [192.0.2.1]}", name="n1") + objects("{addresses: [192.0.2.2]}", name="n2"))
    assert [node.name for node in settings.nodes()] == ["n1", "n2"]


@pytest.mark.parametrize("spec", ["{addresses: [nowhere]}", "7"])
def test_a_broken_config_of_another_node_keeps_how_it_is_reached(spec: str) -> None:
    settings = Settings(host="box")
    settings.read(objects("{addresses: [192.0.2.1]}", name="box") + objects("{addresses: [192.0.2.2]}", name="n2"))
    (problem,) = settings.read(objects("{addresses: [192.0.2.1]}", name="box") + objects(spec, name="n2"))
    assert problem.object == "NodeConfig n2"
    assert settings.nodes() == (Node("box", ("192.0.2.1",)), Node("n2", ("192.0.2.2",)))


def test_a_config_of_a_version_that_is_not_read_keeps_what_was_known() -> None:
    settings = Settings(host="box")
    (raw,) = objects("{addresses: [192.0.2.2]}", name="n2")
    settings.read([raw])
    (problem,) = settings.read([RawObject({**raw.data, "apiVersion": "edgemesh.io/v9"}, raw.where, {})])
    assert problem.severity == "error"
    assert settings.nodes() == (Node("n2", ("192.0.2.2",)),)


def test_a_broken_default_does_not_take_on_what_this_node_says_for_itself() -> None:
    settings = Settings(host="box")
    rest = objects("{addresses: [192.0.2.1], metered: true}", name="box") + objects("{}", name="n2")
    settings.read(objects("{ports: {tunnel: 16000}}") + rest)
    for spec in ("{addresses: x, metered: x, ports: {tunnel: x}}", "7"):
        assert settings.read(objects(spec) + rest)
        assert settings.nodes() == (Node("box", ("192.0.2.1",), 16000, True), Node("n2", (), 16000))


def test_two_nodes_at_one_address_are_pointed_out() -> None:
    same = objects("{addresses: [192.0.2.1]}", name="a") + objects("{addresses: [192.0.2.1]}", name="b")
    settings = Settings(host="box")
    (problem,) = settings.read(same)
    assert str(problem).startswith(
        "b0.yaml:4: warning: NodeConfig b: spec.addresses: 192.0.2.1 port 15008 is where node a is reached too"
    )
    assert settings.accepted == tuple(same), "in force all the same"
    assert settings.read(same[:1] + objects("{addresses: [192.0.2.1], ports: {tunnel: 16000}}", name="b")) == [], (
        "behind one router"
    )


def test_what_was_good_before_a_restart_stands_in() -> None:
    first = Settings(host="box")
    first.read(objects("{accessLog: all}") + objects("{addresses: [192.0.2.2]}", name="n2"))
    second = Settings(host="box")
    second.remember(first.accepted)
    assert second.config == Settings(host="box").config, "nothing is in force yet"
    second.read(objects("{accessLog: loud}") + objects("{addresses: [nowhere]}", name="n2"))
    assert (second.config.access_log, second.nodes()) == ("all", (Node("n2", ("192.0.2.2",)),))
    assert [raw.data["spec"] for raw in second.accepted] == [{"accessLog": "all"}, {"addresses": ["192.0.2.2"]}]
    second.read(objects("{accessLog: loud}"))
    assert [raw.data["spec"] for raw in second.accepted] == [{"accessLog": "all"}], "what is gone is not kept"


def test_quiet_connections_may_stay_for_ever() -> None:
    config, problems = read(*objects("{limits: {idleTimeout: 0}}"))
    assert problems == []
    assert config.limits.patience > 9 * 365 * 86400


@pytest.mark.parametrize(
    ("origin", "stays"), [("/etc/edgemesh/a.yaml", True), ("kubernetes:NodeConfig/default", False)]
)
def test_a_node_config_that_was_deleted_in_a_cluster_is_gone(origin: str, stays: bool) -> None:
    settings = Settings({"node": "here"})
    data = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "default"}, "spec": {"metered": True}}
    settings.read([RawObject(data, Where(origin, 1), {})])
    assert settings.config.metered
    problems = settings.read([])
    assert settings.config.metered is stays
    assert bool(problems) is stays
