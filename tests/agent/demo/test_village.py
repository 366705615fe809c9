"""The village with real namespaces and servers, and no mesh."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from agent.demo import documents
from agent.demo.village import SERVERS, Village

PREFIX = "emt-"
PRIVATE = not os.access("/etc", os.W_OK)  # the rootless run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or to run under unshare"),
    pytest.mark.skipif(
        shutil.which("ip") is None or shutil.which("setpriv") is None, reason="needs iproute2 and util-linux"
    ),
]


def test_its_folder_says_what_was_applied_and_its_servers_count(tmp_path):
    with Village(tmp_path / "demo", PRIVATE, PREFIX) as there:
        before = time.time()
        assert before <= there.apply(["chapter-web.yaml"]) <= time.time()
        assert there.apply(["chapter-web.yaml"]) == 0.0, "nothing changed"
        there.apply(["chapter-web.yaml", "routes.yaml"])
        texts = {path.name: path.read_text() for path in there.config.path.iterdir()}
        members = {"client", "web-v1", "web-v2"}
        assert set(texts) == {
            "chapter-web.yaml",
            "routes.yaml",
            "node.yaml",
            *(f"workload-{one}.yaml" for one in members),
        }
        assert texts["routes.yaml"] == documents.fixed("routes.yaml")

        assert there.asked() == dict.fromkeys(SERVERS, 0)
        (host,) = (host for host in there.network.hosts if host.name == "web-v2")
        words = ["ip", "netns", "exec", there.network.name("client"), "curl", "-s", f"http://{host.address4}:14001/x"]
        assert subprocess.run(words, capture_output=True, check=True).stdout == b"web-v2 GET /x\n"
        assert there.asked() == {"web-v1": 0, "web-v2": 1, "outside": 0}
        there.processes.stop("web-v2")
        assert there.asked() == {"web-v1": 0, "outside": 0}
