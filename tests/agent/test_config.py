"""NodeConfig: every field can be wrong, and none of them stops the node."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config import Environment, NodeConfig, Settings, environment, is_node_config, parse_address, waiting, wrong_overrides
from agent.sources import manifest
from nodeproxy.limits import Limits
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
    assert (config.node, config.state_dir, config.admin_socket) == ("box", "/var/lib/edgemesh", "/run/edgemesh/edgemesh.sock")
    assert (config.metrics_address, config.on_stop, config.access_log) == ("127.0.0.1:15020", "closed", "denied")
    assert config.limits == Limits()


def test_every_field_can_be_set() -> None:
    spec = (
        "{node: n1, stateDir: /s, adminSocket: /a, metricsAddress: '[::1]:9', metricsRows: 5, serviceRange: [10.0.0.0/8], "
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
    assert (config.service_range, config.ports.outbound, config.ports.inbound, config.marks.local) == (("10.0.0.0/8",), 1, 15006, 7)
    assert (config.metrics_rows, config.poll_interval, config.on_stop, config.access_log) == (5, 0.5, "open", "all")


def test_the_node_s_own_config_is_laid_over_default() -> None:
    both = objects("{accessLog: all, limits: {headBytes: 9, pathBytes: 9}}") + objects("{limits: {headBytes: 8}}", name="box")
    config, problems = read(*both, *objects("{accessLog: 'off'}", name="other"))
    assert problems == []
    assert (config.access_log, config.limits.head_bytes, config.limits.path_bytes) == ("all", 8, 9)


def test_the_default_config_may_name_the_node() -> None:
    config, _ = read(*objects("{node: n1}"), *objects("{accessLog: all}", name="n1"))
    assert (config.node, config.access_log) == ("n1", "all")


def test_the_command_line_wins() -> None:
    config, _ = read(*objects("{node: n1, accessLog: all}"), *objects("{stateDir: /mine}", name="n2"), node="n2", access_log="off")
    assert (config.node, config.access_log, config.state_dir) == ("n2", "off", "/mine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{acessLog: all}", "unknown field spec.acessLog (did you mean accessLog?)"),
        ("{dns: {tls: 1}}", "unknown field spec.dns.tls (did you mean ttl?)"),
        ("{zzz: 1}", "unknown field spec.zzz (known here: node, "),
        ("{accessLog: loud}", "spec.accessLog: Invalid enum value 'loud' (in force: \"denied\")"),
        ("{metricsAddress: localhost}", "spec.metricsAddress: is not ADDRESS:PORT"),
        ("{metricsRows: 0}", "spec.metricsRows: Expected `int` >= 1"),
        ("{pollInterval: 0}", "spec.pollInterval: Expected `float` > 0.0"),
        ("{limits: 7}", "spec.limits: Expected `object`, got `int`"),
        ("{limits: {headBytes: many}}", "spec.limits.headBytes: Expected `int`, got `str`"),
        ("{limits: {headTimeout: -1}}", "spec.limits.headTimeout: must be more than 0 (in force: 10.0)"),
        ("{limits: {headBytes: true}}", "spec.limits.headBytes: Expected `int`, got `bool`"),
        ("{ports: {outbound: 70000}}", "spec.ports: a port is a number from 1 to 65535"),
        ("{ports: {outbound: 15006}}", "spec.ports: two doors with the same port"),
        ("{marks: {local: 0}}", "spec.marks: marks and the table are numbers from 1"),
        ("{marks: {local: 5, bypass: 5}}", "spec.marks: the marks local and bypass must differ"),
        ("{serviceRange: [10.0.0.1/8]}", "spec.serviceRange: 10.0.0.1/8 has host bits set"),
        ("{serviceRange: []}", "spec.serviceRange: names no network"),
        ("{stateDir: here}", "spec.stateDir: is not an absolute path"),
        ("{node: 'Not A Name'}", "spec.node: is no DNS name"),
        ("7", "spec is not a mapping"),
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
    assert (config.access_log, config.limits.head_bytes, config.limits.path_bytes) == ("denied", 9, 8192)


def test_while_we_run_a_wrong_field_keeps_the_value_that_it_had() -> None:
    settings = Settings(host="box")
    settings.read(objects("{accessLog: all, limits: {headBytes: 9}}"))
    settings.read(objects("{accessLog: loud, limits: {headBytes: x}}"))
    assert (settings.config.access_log, settings.config.limits.head_bytes) == ("all", 9)
    settings.read(objects("{}"))
    assert (settings.config.access_log, settings.config.limits.head_bytes) == ("denied", 65536)


def test_objects_of_the_wrong_form() -> None:
    def one(text: str) -> list[str]:
        return read(*(manifest.read(text.encode(), "x.yaml").objects or ()))[1]

    assert "edgemesh.io/v2 is not read here (write edgemesh.io/v1alpha1)" in one("kind: NodeConfig\napiVersion: edgemesh.io/v2")[0]
    assert "no metadata.name" in one("kind: NodeConfig\napiVersion: edgemesh.io/v1alpha1")[0]
    text = "kind: NodeConfig\napiVersion: edgemesh.io/v1alpha1\nmetadata: {name: default}\nnode: x"
    assert one(text) == ["x.yaml:4: error: NodeConfig default: unknown field node (the settings are in spec)"]


def test_two_of_one_name() -> None:
    config, problems = read(*objects("{accessLog: all}", "{accessLog: 'off'}"))
    assert config.access_log == "all"
    assert "default1.yaml:1: error: NodeConfig default: a second NodeConfig of this name; the one at default0.yaml:1 is used" in problems[0]


def test_what_waits_for_a_restart() -> None:
    running, _ = read()
    wanted, _ = read(*objects("{stateDir: /new, accessLog: all, limits: {headBytes: 1}}"))
    assert [problem.message for problem in waiting(running, wanted)] == ["stateDir changed; it takes effect at the next start"]


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
    assert wrong_overrides({"metrics_address": "x"}) == "metricsAddress 'x' is not ADDRESS:PORT (an IPv6 address in brackets)"


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
