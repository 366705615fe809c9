"""sandbox.py: one pod sandbox."""

from agent.kernel.sandbox import Sandbox, plain


def test_its_workload_has_its_name():
    assert Sandbox("id", "shop", "till").pod == "shop/till"
    assert Sandbox("id").pod == ""


def test_the_link_var_run_is_not_needed():
    assert plain("/var/run/netns/cni-1") == "/run/netns/cni-1"
    assert plain("/var/running") == "/var/running"
    assert plain("/proc/7/ns/net") == "/proc/7/ns/net"
