"""The bookstore of examples/bookstore-k8s on a cluster, applied unchanged, and what its counters say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.house import ROOT
from tests.kube.clusters import Cluster, Problem, until

EXAMPLE = ROOT / "examples" / "bookstore-k8s"
NAMESPACES = ("bookbuyer", "bookthief", "bookstore", "bookwarehouse")
POLICIES = ("traffictargets", "httproutegroups", "tcproutes", "trafficsplits")
Counts = dict[str, int]


class Bookstore:
    """The programs, and whichever policy was applied last."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def up(self) -> None:
        """All programs: stores and database on the last node, the others on the first."""
        self.apply("namespaces")
        with self.only(self.cluster.nodes[-1]):
            self.apply("mysql", "bookstore")
            self.cluster.rolled_out("bookstore", "deployment/bookstore")
            self.cluster.rolled_out("bookwarehouse", "statefulset/mysql")
        with self.only(self.cluster.nodes[0]):
            self.apply("bookwarehouse", "bookbuyer", "bookthief")
            self.running("bookstore")

    @contextmanager
    def only(self, node: str) -> Iterator[None]:
        """New pods go to this node: the others are cordoned meanwhile."""
        others = [one for one in self.cluster.nodes if one != node]
        for one in others:
            self.cluster.kubectl("cordon", one)
        try:
            yield
        finally:
            for one in others:
                self.cluster.kubectl("uncordon", one)

    def node(self, namespace: str, app: str) -> str:
        """Where a program runs."""
        return str(self.cluster.list("pods", namespace, f"app={app}")[0]["spec"]["nodeName"])

    def running(self, *stores: str, timeout: float = 120) -> None:
        for namespace in ("bookbuyer", "bookthief", "bookwarehouse"):
            self.cluster.rolled_out(namespace, f"deployment/{namespace}", timeout=timeout)
        self.cluster.rolled_out("bookwarehouse", "statefulset/mysql", timeout=timeout)
        self.cluster.rolled_out("bookstore", *(f"deployment/{store}" for store in stores), timeout=timeout)

    def down(self) -> None:
        self.cluster.kubectl("delete", "namespace", *NAMESPACES, "--ignore-not-found", "--timeout=120s", timeout=150)

    def apply(self, *files: str) -> None:
        """kubectl apply -f of files of the example."""
        words = [word for name in files for word in ("-f", str(EXAMPLE / f"{name}.yaml"))]
        self.cluster.kubectl("apply", *words)

    def without_policy(self) -> None:
        for namespace in NAMESPACES:
            self.cluster.kubectl("-n", namespace, "delete", ",".join(POLICIES), "--all", "--ignore-not-found")

    def counts(self, namespace: str, deployment: str = "") -> Counts:
        """What the program in a namespace has counted; `last`, its newest failure, is left out."""
        said = self.cluster.exec(namespace, f"deployment/{deployment or namespace}", "/bookstore", "raw")
        counted: Counts = json.loads(said)["counts"]
        return counted

    def last(self, namespace: str) -> str:
        """The newest failure of a program."""
        said = self.cluster.exec(namespace, f"deployment/{namespace}", "/bookstore", "raw")
        return str(json.loads(said)["last"])

    def grown(self, seconds: float = 2.0) -> dict[str, Counts]:
        """How much each counter of the shoppers grew within some seconds."""
        before = {who: self.counts(who) for who in ("bookbuyer", "bookthief")}
        time.sleep(seconds)
        after = {who: self.counts(who) for who in before}
        return {who: {key: n - before[who].get(key, 0) for key, n in after[who].items()} for who in before}

    def shows(self, buyer: bool, thief: bool, stores: frozenset[str] = frozenset(), patience: float = 30.0) -> None:
        """Wait until books are had by whom and at which stores they are to be, and no others; then see that it stays so."""

        def so() -> bool:
            seen = self.grown(1.0)
            had = {who: seen[who].get("books", 0) > 0 for who in seen}
            sold = {key for key, n in seen["bookbuyer"].items() if key.startswith("bookstore-v") and n > 0}
            failing = {who: seen[who].get("failed", 0) > 0 for who in seen}
            wanted = {"bookbuyer": buyer, "bookthief": thief}
            if had != wanted or failing != {who: not may for who, may in wanted.items()} or (stores and sold != stores):
                raise Problem(f"{seen}")
            return True

        until(f"bookbuyer has books: {buyer}, bookthief: {thief}, at {sorted(stores) or 'any'}", so, patience)
        assert so()
