"""The kube ring: edgemesh on a real cluster of two nodes. README.md here says how it is run and what is held.

`cluster` is a cluster for the whole session, `namespaces` makes namespaces that end with the test.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kube.clusters import Cluster, Problem, given, lacking
from tests.kube.meshes import Mesh

_clusters: list[Cluster] = []
_numbers = itertools.count(int(time.time()) % 10000 * 100)


def begun(nodes: int) -> Cluster:
    """A cluster of our own; where none can be made the test is skipped, in CI it fails."""
    if why := lacking():
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    try:
        return Cluster.make(nodes)
    except Problem as problem:
        pytest.fail(str(problem))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that EDGEMESH_CLUSTER or EDGEMESH_KUBECONFIG names, or else one of our own, which ends with the session."""
    try:
        made = given() or begun(2)
    except Problem as problem:
        pytest.fail(str(problem))
    _clusters.append(made)
    try:
        yield made
    finally:
        _clusters.clear()
        made.close()


@pytest.fixture(scope="session")
def control_plane_state() -> Iterator[Path]:
    """The folder of a cluster without nodes, whose API server tests may fill with objects of their own."""
    if folder := os.environ.get("EDGEMESH_CLUSTER"):
        yield Path(folder)
        return
    made = begun(0)
    yield made.folder
    made.close()


@pytest.fixture
def own(cluster: Cluster) -> Cluster:
    """The cluster, where a test needs its nodes: skipped on one that is only reached by its API."""
    if cluster.folder is None:
        pytest.skip("it works on the nodes themselves, and this cluster is reached by its API only")
    return cluster


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """edgemesh on a cluster, brought up as a person does it: the image on the nodes, the add-on applied.

    The cluster is one of its own, since other tests start daemons on the nodes of `cluster` themselves.
    """
    try:
        made = Mesh(given() or begun(2))
    except Problem as problem:
        pytest.fail(str(problem))
    try:
        made.up()
        yield made
    except Problem as problem:
        pytest.fail(f"{problem}\n{made.cluster.described()}")
    finally:
        made.cluster.close()


@pytest.fixture
def namespaces(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """namespaces("shop", labels={...}, annotations={...}) makes a namespace and returns its name, which no other test has.

    All end with the test; nobody waits for that.
    """
    made: list[str] = []

    def make(name: str, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> str:
        name = f"{name}-{next(_numbers)}"
        metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        made.append(name)
        return name

    yield make
    for name in made:
        cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Beside a failure: what the cluster looked like."""
    report = yield
    used = getattr(item, "funcargs", {})
    cluster = used["mesh"].cluster if isinstance(used.get("mesh"), Mesh) else _clusters[0] if _clusters else None
    if report.failed and cluster is not None:
        report.sections.append(("the cluster", cluster.described()))
    return report
