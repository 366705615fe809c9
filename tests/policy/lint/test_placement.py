"""lint/placement.py: Workloads that are no mistake."""

from tests.policy.lint.test_findings import found


def test_a_unit_may_listen_on_loopback_alone():
    text = "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {serviceAccount: w, addresses: [127.0.0.1], PLACE}}"
    assert found(text.replace("PLACE", "systemdUnit: w.service")) == []
    assert found(text.replace("PLACE", "netns: w")) == ["Workload n/w: 127.0.0.1 is no address that others could call"]


def test_what_is_left_out_of_the_mesh_may_be_nowhere():
    text = "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n, annotations: {openservicemesh.io/sidecar-injection: SAID}}, spec: {}}"
    assert found(text.replace("SAID", "disabled")) == []
    assert len(found(text.replace("SAID", "enabled"))) == 3
