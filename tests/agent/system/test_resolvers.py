"""resolvers.py: the resolvers that a workload did not choose itself."""

import msgspec
import pytest

from agent.system import resolvers
from agent.system.resolvers import TrustedResolvers
from policy.model import Service, Workload
from policy.snapshot import Snapshot

POD = Workload("shop", "till", "till", ("10.42.0.9",))
UNIT = Workload("shop", "unit", "unit", ("127.0.0.1",), unit="till.service")
DNS = Service("kube-system", "kube-dns", ("10.43.0.10",))


@pytest.fixture
def made(tmp_path):
    def made(*named, snapshot=None, **files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return TrustedResolvers(named, lambda: snapshot, [tmp_path / "resolv", tmp_path / "stub"], tmp_path / "netns")

    return made


def test_the_files_of_the_node_name_them(made, tmp_path):
    (tmp_path / "netns" / "a-file-among-them").parent.mkdir()
    (tmp_path / "netns" / "a-file-among-them").write_text("")
    (tmp_path / "netns" / "empty").mkdir()
    (tmp_path / "netns" / "till").mkdir()
    (tmp_path / "netns" / "till" / "resolv.conf").write_text("nameserver 192.0.2.9\n")
    text = "# nameserver 192.0.2.66\nsearch example\nnameserver 192.0.2.1 # uplink\nnameserver fe80::1%eth0\nnameserver x\n"
    trusted = made(resolv=text, stub="nameserver 2001:DB8:0::53\n")
    assert trusted(POD) == {"192.0.2.1", "fe80::1", "2001:db8::53", "192.0.2.9"}


def test_a_loopback_address_is_the_nodes_only_for_what_shares_its_network(made):
    trusted = made(resolv="nameserver 127.0.0.53\nnameserver ::1\n")
    assert trusted(POD) == set(), "there it is the workload itself"
    assert trusted(UNIT) == {"127.0.0.53", "::1"}


def test_the_clusters_dns_counts_and_no_other_service(made):
    other = msgspec.structs.replace(DNS, namespace="shop", addresses=("10.43.0.66",))
    assert made(snapshot=Snapshot("n", services=(DNS, other)))(POD) == {"10.43.0.10"}


def test_what_the_settings_name_is_all_there_is(made):
    trusted = made("2001:DB8:0::53", resolv="nameserver 192.0.2.1\n", snapshot=Snapshot("n", services=(DNS,)))
    assert trusted(POD) == {"2001:db8::53"}


def test_the_files_are_read_again_and_none_of_them_need_be_there(made, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(resolvers.time, "monotonic", lambda: clock[0])
    trusted = made()
    assert trusted(POD) == set()
    (tmp_path / "resolv").write_text("nameserver 192.0.2.1\n")
    assert trusted(POD) == set()
    clock[0] = 11.0
    assert trusted(POD) == {"192.0.2.1"}
