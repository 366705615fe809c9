"""The objects of a cluster: their values, the chart that has the same text, and what the daemons may do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent.install import addon
from agent.kubernetes.api import plural
from agent.sources.kubernetes.cluster import wanted

TREE = Path(__file__).parents[3]
ADDON = TREE / "k3s-addon"


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def the_file(**given: str) -> list[dict[str, Any]]:
    return documents(addon.manifest(addon.settings(given), yaml.safe_dump_all(addon.definitions())))


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (one,) = (one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return one


def daemons(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if one["kind"] == "DaemonSet"]


# values


def test_without_values_it_is_the_file_that_is_shipped() -> None:
    assert the_file() == documents((ADDON / "edgemesh.yaml").read_text("utf-8"))


def test_a_value_is_where_it_is_meant() -> None:
    found = the_file(image="registry.shop:5000/edgemesh@sha256:0a1b", memoryLimit="1Gi", flowControl="false")
    for daemon in daemons(found):
        (container,) = daemon["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.shop:5000/edgemesh@sha256:0a1b"
        assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert {one["kind"] for one in the_file()} - {one["kind"] for one in found} == {
        "FlowSchema",
        "PriorityLevelConfiguration",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"memorylimit": "1Gi"}, "there is no value 'memorylimit'; did you mean memoryLimit?"),
        ({"image": "x\n  privileged: true"}, "image: "),
        ({"image": ""}, "image: '' is not the name of an image, as registry.example/edgemesh:0.1.0 or"),
        ({"image": "Registry/Edgemesh:1"}, "image: "),
        ({"image": "a:b:c"}, "image: "),
        ({"cpuRequest": "{}"}, "cpuRequest: "),
        ({"cpuRequest": "20mb"}, "cpuRequest: '20mb' is not an amount of CPU (thousandths of a core, as 20m, or"),
        ({"cpuRequest": "0"}, "cpuRequest: "),
        ({"cpuRequest": "0.0"}, "cpuRequest: "),
        ({"cpuRequest": "1.5m"}, "cpuRequest: "),
        (
            {"memoryLimit": "lots"},
            "memoryLimit: 'lots' is not an amount of memory (a whole number and Mi or Gi, as 384Mi)",
        ),
        ({"memoryLimit": "384m"}, "memoryLimit: "),
        ({"memoryLimit": "384"}, "memoryLimit: "),
        ({"memoryLimit": "384MB"}, "memoryLimit: "),
        ({"memoryLimit": "-1Gi"}, "memoryLimit: "),
        ({"memoryRequest": ""}, "memoryRequest: "),
        ({"memoryRequest": "1Gi"}, "memoryRequest: 1Gi is more than memoryLimit, 384Mi"),
        ({"memoryLimit": "60M"}, "memoryRequest: 64Mi is more than memoryLimit, 60M"),
        ({"imagePullPolicy": "always"}, "is not Always, IfNotPresent or Never; did you mean Always?"),
        ({"imagePullPolicy": "Sometimes"}, "is not Always, IfNotPresent or Never"),
        ({"flowControl": "yes"}, "flowControl: 'yes' is not true or false"),
        ({"flowControl": "True"}, "did you mean true?"),
    ],
)
def test_a_value_that_cannot_be_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(addon.SettingError) as caught:
        addon.settings(given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"image": "x"},
        {"image": "localhost:5000/a/b_c/edgemesh:V1.0-rc_1"},
        {"image": "10.0.0.1/edgemesh:1@sha256:0a1b"},
        {"cpuRequest": "1"},
        {"cpuRequest": "0.25"},
        {"cpuRequest": "1.5"},
        {"memoryLimit": "1G", "memoryRequest": "900Mi"},
        {"memoryLimit": "64Mi"},
        {"imagePullPolicy": "Never"},
    ],
)
def test_a_value_that_can_be_is_taken_as_it_is(given: dict[str, str]) -> None:
    found = addon.settings(given)
    assert {name: found[name] for name in given} == given


def test_each_value_is_documented_beside_the_chart() -> None:
    text = (ADDON / "README.md").read_text("utf-8")
    for name, value in addon.VALUES.items():
        assert f"| `{name}` | `{value.default}` | {value.meaning}: {value.form.words} |" in text


def test_the_chart_refuses_what_the_command_refuses() -> None:
    """Helm holds values to values.schema.json, before anything is sent."""
    schema = jsonschema.Draft7Validator(json.loads((ADDON / "chart/values.schema.json").read_text("utf-8")))
    values = yaml.safe_load((ADDON / "chart/values.yaml").read_text("utf-8"))
    assert schema.is_valid(values)
    assert schema.is_valid({**values, "cpuRequest": 0.5, "image": "here/edgemesh:1", "global": {}})
    wrong = [
        ("memoryLimit", "lots"),
        ("memoryLimit", 384),
        ("cpuRequest", "{}"),
        ("cpuRequest", 0),
        ("flowControl", "false"),
        ("image", "a b"),
    ]
    for name, value in [*wrong, ("imagePullPolicy", "always"), ("memorylimit", "1Gi"), ("version", "9")]:
        assert not schema.is_valid({**values, name: value}), name


def test_the_chart_gives_the_same_objects() -> None:
    """The templates in a subset of Helm's language that addon.render reads: a place, and `if` of a value."""
    values = {name: str(value) for name, value in yaml.safe_load((ADDON / "chart/values.yaml").read_text()).items()}
    values["flowControl"] = values["flowControl"].lower()
    texts = [path.read_text("utf-8") for path in sorted((ADDON / "chart/templates").iterdir())]
    for text in texts:
        left = re.sub(r"\{\{ \.Values\.\w+ \}\}|^\{\{- if \.Values\.\w+ \}\}$|^\{\{- end \}\}$", "", text, flags=re.M)
        assert "{{" not in left
        assert text.count("{{- if") == text.count("{{- end }}")
    found = [one for text in texts for one in documents(addon.render(text, values))]
    found += documents((ADDON / "chart/crds/definitions.yaml").read_text("utf-8"))
    key = lambda one: (one["kind"], one["metadata"]["name"])  # noqa: E731
    assert sorted(found, key=key) == sorted(the_file(), key=key)


# what k3s and kubectl need


def test_every_document_is_an_object_of_its_own() -> None:
    found = the_file()
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    kinds = [one["kind"] for one in found]
    assert kinds[0] == "Namespace"
    assert kinds.index("CustomResourceDefinition") < kinds.index("DaemonSet")
    # A custom object beside its definition fails at first, and k3s tries the whole file again 15 seconds later.
    assert not {one["apiVersion"].partition("/")[0] for one in found} & {
        one["spec"]["group"] for one in addon.definitions()
    }


def test_kubectl_can_keep_each_in_its_annotation() -> None:
    """kubectl apply keeps what it applied in an annotation; all annotations of an object may have 262,144 bytes."""
    for one in the_file():
        assert len(yaml.safe_dump(one)) < 200_000, one["metadata"]["name"]


def test_every_object_says_whose_it_is() -> None:
    """`edgemesh uninstall mesh` and people find them by it."""
    for one in the_file():
        assert one["metadata"]["labels"]["app.kubernetes.io/name"] == "edgemesh", one["metadata"]["name"]


# the daemons


def test_each_node_has_one_daemon() -> None:
    terms = {}
    for daemon in daemons(the_file()):
        affinity = daemon["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (terms[daemon["metadata"]["name"]],) = term["matchExpressions"]
        pod = daemon["spec"]["template"]["spec"]
        assert pod["tolerations"] == [{"operator": "Exists"}]
        assert pod["serviceAccountName"] == daemon["metadata"]["name"]
        assert ("--authority" in pod["containers"][0]["args"]) == (daemon["metadata"]["name"] == addon.SERVER)
    assert terms == {
        addon.SERVER: {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        addon.AGENT: {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"},
    }


def test_every_option_of_a_daemon_is_one() -> None:
    from agent.commands import parser

    typed, _ = parser.one("run")
    known = {option for action in typed._actions for option in action.option_strings}
    for daemon in daemons(the_file()):
        command, *words = daemon["spec"]["template"]["spec"]["containers"][0]["args"]
        assert command == "run"
        assert {word for word in words if word.startswith("--")} - {"--kubernetes"} <= known


def test_each_capability_has_its_reason() -> None:
    text = addon.template("agent")
    for daemon in daemons(the_file()):
        security = daemon["spec"]["template"]["spec"]["containers"][0]["securityContext"]
        assert security["capabilities"]["drop"] == ["ALL"]
        assert (security["privileged"], security["readOnlyRootFilesystem"]) == (False, True)
        for name in security["capabilities"]["add"]:
            assert re.search(rf"- {name} # .{{20,}}", text), name


def rules(found: list[dict[str, Any]], kind: str, name: str) -> list[dict[str, Any]]:
    return list(named(found, kind, name)["rules"])


def test_an_agent_may_read_every_kind_that_policy_reads() -> None:
    readable = {
        (group, resource)
        for one in rules(the_file(), "ClusterRole", "edgemesh-agent")
        for group in one["apiGroups"]
        for resource in one["resources"]
        if {"list", "watch"} <= set(one["verbs"])
    }
    for (group, kind), wish in wanted().items():
        assert {(group, plural(kind)), (group, "*")} & readable, wish


def test_an_agent_reads_no_secret_and_writes_nothing_but_requests() -> None:
    found = the_file()
    wrote = set()
    for one in rules(found, "ClusterRole", "edgemesh-agent") + rules(found, "Role", "edgemesh-agent"):
        assert not {"secrets", "*/*", "pods/exec"} & set(one["resources"])
        assert "*" not in one["verbs"]
        assert "*" not in one["apiGroups"]
        wrote |= {
            (resource, verb) for resource in one["resources"] for verb in set(one["verbs"]) - {"get", "list", "watch"}
        }
    assert wrote == {("certificatesigningrequests", "create"), ("tokenreviews", "create")}


GATEWAY = "edgemesh-gateway-certificates"


def test_certificates_of_gateways_are_read_where_a_person_says_so_and_never_listed() -> None:
    found = the_file()
    (rule,) = rules(found, "ClusterRole", GATEWAY)
    assert set(rule["resources"]) == {"secrets", "configmaps"}
    assert set(rule["verbs"]) == {"get", "watch"}
    bound = [one for one in found if one["kind"].endswith("RoleBinding") and one["roleRef"]["name"] == GATEWAY]
    assert bound == []


def test_only_a_server_reads_the_key_of_the_authority_and_signs_for_this_signer_only() -> None:
    found = the_file()
    reads = [
        (one["metadata"]["name"], rule)
        for one in found
        if one["kind"] in ("Role", "ClusterRole")
        for rule in one["rules"]
        if "secrets" in rule["resources"] and set(rule["verbs"]) & {"get", "list", "watch"}
    ]
    assert [(name, rule["resourceNames"]) for name, rule in reads if name != GATEWAY] == [
        ("edgemesh-server", ["edgemesh-ca"])
    ]
    assert named(found, "Role", "edgemesh-server")["metadata"]["namespace"] == addon.NAMESPACE
    bound = named(found, "RoleBinding", "edgemesh-server")["subjects"]
    assert [one["name"] for one in bound] == ["edgemesh-server"]
    (signs,) = (one for one in rules(found, "ClusterRole", "edgemesh-server") if "signers" in one["resources"])
    assert signs["resourceNames"] == ["edgemesh.io/workload"]


def test_definitions_have_the_names_that_the_source_looks_for_and_osm_has() -> None:
    found = {one["spec"]["names"]["kind"]: one for one in addon.definitions()}
    for kind, one in found.items():
        assert one["spec"]["names"]["plural"] == plural(kind)
        assert one["metadata"]["name"] == f"{plural(kind)}.{one['spec']['group']}"
    assert [found[kind]["spec"]["names"]["plural"] for kind in ("Retry", "Egress")] == ["retries", "egresses"]
