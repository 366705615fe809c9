"""docs/howto/k3s.md, typed in its order on the two nodes: the file in the folder of manifests, the command line, the uninstall."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from tests.kube.clusters import PROGRAMS, Cluster, until
from tests.readme.place import held
from tests.readme.script import TREE, Command, read

NODES = {"server": "n1", "agent": "n2"}
PAGE = TREE / "docs/howto/k3s.md"
OURS = ["Namespace", "DaemonSet", "ClusterRole", "ClusterRoleBinding"]


@pytest.fixture
def folder(own: Cluster, tmp_path: Path) -> Iterator[Path]:
    """What a person has before the page begins: the two files, and on a server the programs that k3s brings.

    Where k3s looks for manifests, this cluster does; images are imported by hand, since it looks for them only at its start.
    """
    archive = tmp_path / f"edgemesh-{__version__}-image.tar"
    built = [sys.executable, TREE / "build/image", "--checkout", "--out", archive]
    subprocess.run(built, check=True, capture_output=True, cwd=TREE)
    # A file that was applied before is not applied again, here as with k3s: another test may have had it.
    text = f"# {tmp_path}\n{(TREE / 'k3s-addon/edgemesh.yaml').read_text('utf-8')}"
    (tmp_path / "edgemesh.yaml").write_text(text)
    kubeconfig = f"{own.folder}/admin.kubeconfig"
    programs = {
        "k3s": f'shift; exec {PROGRAMS}/ctr -a /run/k3s/containerd/containerd.sock -n k8s.io "$@"',
        "kubectl": f'exec {PROGRAMS}/kubernetes kubectl --kubeconfig {kubeconfig} "$@"',
        "edgemesh": f'KUBECONFIG={kubeconfig} exec {TREE}/.venv/bin/edgemesh "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, line in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    server = "/var/lib/rancher/k3s/server"
    own.inside("n1", "sh", "-c", f"mkdir -p {server}; ln -sfn {own.folder}/manifests {server}/manifests")
    yield tmp_path
    own.inside("n1", f"{tmp_path}/bin/edgemesh", "uninstall", "mesh", "--force", timeout=400)
    own.inside("n1", "rm", "-f", f"{server}/manifests/edgemesh.yaml")


def typed(cluster: Cluster, command: Command, folder: Path) -> str:
    words = f"export PATH={folder}/bin:$PATH; cd {folder}; {command.words}"
    done = cluster.inside_tried(NODES[command.where], "bash", "-c", words, timeout=400)
    held(command, done.returncode, done.stdout + done.stderr)
    return done.stdout


@pytest.mark.timeout(900)
def test_the_page_does_what_it_says(own: Cluster, folder: Path) -> None:
    steps = [step for step in read(PAGE.read_text("utf-8")) if isinstance(step, Command)]
    sections = list(dict.fromkeys(step.section for step in steps))
    for section in sections:
        for step in (one for one in steps if one.section == section):
            typed(own, step, folder)
        if section == "Install":
            sets = own.list("daemonsets", "edgemesh-system")
            assert [one["status"]["numberReady"] for one in sets] == [1, 1]
    assert sections[-1] == "Uninstall"
    until(
        "the namespace is gone",
        lambda: "edgemesh-system" not in [one["metadata"]["name"] for one in own.list("namespaces")],
    )
    for node in own.nodes:
        assert "edgemesh" not in own.inside(node, "nft", "list", "tables")
        assert own.inside(node, "sh", "-c", "ls -A /var/lib/edgemesh /run/edgemesh 2>/dev/null || true").strip() in (
            "",
            "/var/lib/edgemesh:",
        )
    kinds = own.list("crd", selector="app.kubernetes.io/name=edgemesh")
    assert kinds  # they stay, and policy with them
