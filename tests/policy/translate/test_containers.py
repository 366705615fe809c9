"""translate/containers.py: ports of a pod by number and name, and what the kubelet asks of it."""

import msgspec
import pytest
import yaml

from policy.kinds.kubernetes import PodSpec
from policy.model import Probe
from policy.translate.containers import port_number, ports_of, probes_of, programs

ADDRESSES = ("10.1.0.1", "fd01::1")


def pod(text):
    return programs(msgspec.convert(yaml.safe_load(text), PodSpec))


def probes(container):
    return probes_of(pod(f"containers: [{{ports: [{{name: main, containerPort: 8080}}], {container}}}]"), ADDRESSES)


MIXED = """
containers:
- ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 5353, protocol: UDP}]
- ports: [{name: http, containerPort: 9090}, {name: dns, containerPort: 53}]
initContainers:
- ports: [{name: setup, containerPort: 7070}]
- restartPolicy: Always
  ports: [{name: side, containerPort: 6060}]
"""


def test_sidecars_serve_and_other_init_containers_do_not():
    named, numbers = ports_of(pod(MIXED))
    assert numbers == (53, 5353, 6060, 8080, 9090)
    assert port_number("side", named) == 6060
    assert port_number("setup", named) is None


def test_a_name_means_the_first_port_of_that_name_and_protocol():
    named, _ = ports_of(pod(MIXED))
    assert port_number("http", named) == 8080
    assert (port_number("dns", named), port_number("dns", named, "UDP")) == (53, 5353)
    assert port_number("http", named, "UDP") is None


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ("livenessProbe: {exec: {command: [true]}}", ()),
        ("livenessProbe: {httpGet: {path: /live, port: main}}", (Probe("http", 8080, "/live"),)),
        ("readinessProbe: {httpGet: {path: live, port: 1}}", (Probe("http", 1, "/live"),)),
        ("startupProbe: {httpGet: {port: '81'}}", (Probe("http", 81, "/"),)),
        ("startupProbe: {httpGet: {port: gone}}", ()),
        ("livenessProbe: {tcpSocket: {port: main}}", (Probe("tcp", 8080),)),
        ("livenessProbe: {grpc: {port: 9000}}", (Probe("http", 9000, "/grpc.health.v1.Health/Check", "POST"),)),
        (
            "livenessProbe: {grpc: {port: 9000, service: x.y}}",
            (Probe("http", 9000, "/grpc.health.v1.Health/Check", "POST"),),
        ),
        ("livenessProbe: {httpGet: {port: 8443, scheme: HTTPS}}", (Probe("https", 8443),)),
        ("lifecycle: {preStop: {httpGet: {path: /bye, port: main}}}", (Probe("http", 8080, "/bye"),)),
        ("lifecycle: {postStart: {httpGet: {path: /hi, port: 82}}}", (Probe("http", 82, "/hi"),)),
        ("lifecycle: {postStart: {exec: {command: [x]}}, preStop: {sleep: {seconds: 5}}}", ()),
        ("livenessProbe: {httpGet: {port: 80, host: 10.1.0.1}}", (Probe("http", 80, "/"),)),
        ("livenessProbe: {httpGet: {port: 80, host: 'FD01::0001'}}", (Probe("http", 80, "/"),)),
        ("livenessProbe: {httpGet: {port: 80, host: 127.0.0.1}}", ()),
        ("livenessProbe: {tcpSocket: {port: 80, host: db.example}}", ()),
    ],
)
def test_what_the_kubelet_asks(container, expected):
    assert probes(container) == expected


def test_a_sidecar_is_probed_too_and_each_probe_counts_once():
    twice = "livenessProbe: {httpGet: {path: /x, port: 80}}, readinessProbe: {httpGet: {path: /x, port: 80}}"
    spec = (
        f"{{containers: [{{}}], initContainers: [{{restartPolicy: Always, {twice}}}, {{{twice.replace('/x', '/y')}}}]}}"
    )
    assert probes_of(pod(spec), ADDRESSES) == (Probe("http", 80, "/x"),)


def test_a_probe_looks_for_a_name_in_its_own_container():
    text = "containers: [{ports: [{name: a, containerPort: 1}]}, {livenessProbe: {tcpSocket: {port: a}}}]"
    assert probes_of(pod(text), ADDRESSES) == ()
