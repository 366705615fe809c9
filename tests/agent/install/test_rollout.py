"""Objects on their way to an API server, and what is said of daemons that are not ready."""

from __future__ import annotations

from typing import Any

import yaml

from agent.install import addon, rollout
from agent.kubernetes.api import path_of
from tests.agent.kubernetes.fake import Answer, Asked, api_of, serving

NODE = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n3"]}]}]}}  # fmt: skip


def pod(name: str, node: str = "n1", **status: Any) -> dict[str, Any]:
    spec = {"nodeName": node} if node else {"affinity": {"nodeAffinity": NODE}}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "edgemesh", "image": "edgemesh.io/edgemesh:9", "ready": False, **state}]}


def one_fault(found: dict[str, Any]) -> rollout.Fault:
    (fault,) = rollout.faults([found])
    return fault


# faults


def test_a_daemon_that_is_ready_or_goes_is_no_fault() -> None:
    ready = pod("a", conditions=[{"type": "Ready", "status": "True"}])
    going = pod("b", **container(state={"running": {}}))
    going["metadata"]["deletionTimestamp"] = "2026-11-30T20:00:00Z"
    assert rollout.faults([ready, going]) == []


def test_a_node_without_the_image_is_told_where_it_goes() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    fault = one_fault(pod("a", **container(state=waiting)))
    assert fault.message == "has no image edgemesh.io/edgemesh:9"
    assert "/var/lib/rancher/k3s/agent/images" in fault.hint


def test_a_daemon_that_ends_says_how_and_its_log_is_wanted() -> None:
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    last = {"terminated": {"exitCode": 2, "reason": "Error"}}
    fault = one_fault(pod("a", **container(state=state, lastState=last)))
    assert (fault.message, fault.ended, fault.pod) == ("ended with 2", True, "a")
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    fault = one_fault(pod("a", **container(state=state, lastState=last)))
    assert fault.message == "was killed at its memory limit"
    assert "memoryLimit" in fault.hint


def test_a_pod_that_no_node_takes_names_the_node_it_is_for() -> None:
    scheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: too many pods"}
    fault = one_fault(pod("a", node="", conditions=[scheduled]))
    assert (fault.node, fault.message) == ("n3", "no room: 0/3 nodes: too many pods")


def test_a_daemon_that_runs_and_has_not_begun_is_told_from_one_that_is_started() -> None:
    assert "has not captured" in one_fault(pod("a", **container(state={"running": {}}))).message
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert one_fault(pod("a", **container(state=creating))).message == "is being started"
    assert one_fault(pod("a")).message == "is being started"


# progress


def daemon_set(generation: int = 1, seen: int = 1, **status: int) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": {"observedGeneration": seen, **status}}


def test_it_is_done_when_every_node_runs_the_new_one() -> None:
    whole = daemon_set(desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=2)
    assert rollout.progress([whole, daemon_set(desiredNumberScheduled=0)]).done
    old = daemon_set(desiredNumberScheduled=2, updatedNumberScheduled=1, numberAvailable=2)
    assert rollout.progress([old]) == rollout.Progress(1, 2, True)
    assert not rollout.progress(
        [daemon_set(2, 1, desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=2)]
    ).done
    assert not rollout.progress([{"metadata": {"generation": 1}}]).done  # no controller has looked yet


# the API server


async def test_a_definition_that_converts_by_a_webhook_loses_it_first() -> None:
    asked: list[Asked] = []

    async def answer(one: Asked, to: Answer) -> None:
        asked.append(one)
        await to.send(200, {"spec": {"conversion": {"strategy": "Webhook"}}})

    definition = next(one for one in addon.definitions() if one["spec"]["names"]["kind"] == "HTTPRouteGroup")
    async with serving(answer) as server:
        api = api_of(server)
        await rollout.apply(api, definition)
    assert [one.method for one in asked] == ["GET", "PATCH", "PATCH"]
    assert asked[1].json == {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
    assert asked[2].query == {"fieldManager": "edgemesh", "force": "true"}
    assert asked[2].json["spec"]["conversion"] == {"strategy": "None"}  # null is no value that one can own


async def test_what_is_not_there_was_not_removed() -> None:
    async def answer(one: Asked, to: Answer) -> None:
        await to.send(404 if one.path.endswith("/gone") else 200, {"kind": "Status", "reason": "NotFound"})

    async with serving(answer) as server:
        api = api_of(server)
        assert not await rollout.remove(api, path_of("v1", "configmaps", "x", "gone"))
        assert await rollout.remove(api, path_of("v1", "configmaps", "x", "there"))


async def test_queues_for_requests_are_known_by_their_version() -> None:
    async def answer(one: Asked, to: Answer) -> None:
        await to.send(404, {"kind": "Status", "reason": "NotFound"})

    async with serving(answer) as server:
        api = api_of(server)
        assert not await rollout.has_flow_control(api)


# the cleaner


def the_agent() -> dict[str, Any]:
    (found,) = yaml.safe_load_all(addon.render(addon.template("agent"), addon.settings({"image": "here/it:1"})))
    return dict(found)


def test_the_cleaner_runs_on_every_node_with_the_daemon_s_image_and_rights() -> None:
    agent = the_agent()
    cleaner = rollout.cleaner(agent)
    spec, daemon = cleaner["spec"]["template"]["spec"], agent["spec"]["template"]["spec"]
    assert "affinity" not in spec  # servers and others alike
    assert (spec["hostPID"], spec["tolerations"], spec["nodeSelector"]) == (True, [{"operator": "Exists"}], {})
    for one in (*spec["initContainers"], *spec["containers"]):
        assert one["image"] == "here/it:1"
        assert one["securityContext"] == daemon["containers"][0]["securityContext"]
        assert one["args"][0] == "cleanup"
        assert "livenessProbe" not in one
    assert spec["serviceAccountName"] == "edgemesh-agent"
    assert spec["automountServiceAccountToken"] is False
    labels = cleaner["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] not in ("server", "agent")  # nothing counts it as a daemon
    assert cleaner["spec"]["selector"]["matchLabels"] == labels
    assert agent == the_agent()  # what was given is as it was


def test_a_cleaner_that_is_held_runs_nowhere() -> None:
    spec = rollout.cleaner(the_agent(), held=True)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"edgemesh.io/cleanup": "held"}


def test_the_path_of_an_object() -> None:
    found = {one["metadata"]["name"]: rollout.path(one) for one in addon.definitions()}
    assert (
        found["workloads.edgemesh.io"]
        == "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workloads.edgemesh.io"
    )
    assert rollout.path(the_agent()) == "/apis/apps/v1/namespaces/edgemesh-system/daemonsets/edgemesh-agent"
