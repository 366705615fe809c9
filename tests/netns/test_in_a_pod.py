"""What a container puts in the daemon's way: a cgroup namespace of its own, and /proc/sys that cannot be written.

The DaemonSet itself is tried in tests/kube.
"""

import signal

import pytest

from agent.system import cgroup
from tests.netns.test_calls_from_the_node import dial, kubelet  # noqa: F401  # a fixture

# The first process of the PID namespace stands for the node's: it stays in the outer cgroup namespace.
SEALED = """
    {
        sh -c 'echo $$ >"$0/cgroup.procs"; exec unshare --mount --cgroup "$@"' "$0" sh -c '
            mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"' sh "$@"
        exit
    }
"""


@pytest.fixture
def contained(kubelet, needs_cgroup):  # noqa: F811
    """The lab of the kubelet, whose daemon is in a container's namespaces, deep in kubepods."""
    lab = kubelet
    folder = needs_cgroup / "kubepods-em.slice" / "kubepods-em-pod7.slice" / "c.scope"
    folder.mkdir(parents=True, exist_ok=True)
    lab.down()
    for host in lab.hosts.values():
        host.run("sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=0")
    lab.sealed = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SEALED, str(folder)]
    lab.container = folder
    lab.up()
    yield lab
    if lab.daemon.poll() is None:
        lab.down(signal.SIGKILL)
    for made in (folder, folder.parent, folder.parent.parent):
        lab.wait(lambda made=made: cgroup.leave(made), "the container is gone")


def test_a_daemon_in_a_container_does_all_that_one_on_the_box_does(contained, needs_cgroup):
    lab = contained
    wrong = [problem["message"] for problem in lab.status()["problems"]]
    assert not any("Read-only" in message for message in wrong), wrong
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200
    group = lab.start_kubelet("emkl-kubelet.service")
    lab.wait(lambda: dial(lab, group) == "200", "the kubelet is known, from another cgroup namespace")
    assert lab.home.curl(f"http://{lab.host('store').v4}/health").status == 403
    assert (lab.container / "cgroup.procs").read_text(), "it stays in its pod's cgroup"
    assert not list(cgroup.processes(cgroup.folder(needs_cgroup, lab.node)))
    lab.down(signal.SIGKILL)
    assert dial(lab, group) == "200", "by the kernel alone"
