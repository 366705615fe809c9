"""What stays though no manifest names it any more, on the disk and in force, until a person lets go of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from agent.admin import client
from agent.store.disk import State
from policy.model import Workload


async def test_what_no_manifest_says_any_more_stays_until_a_person_lets_go_of_it(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start()
    ground = await daemon.start()
    daemon.file.unlink()
    await daemon.until(lambda: daemon.node.published.number == 2)
    assert [workload.name for workload in ground.wanted] == ["buyer", "store-v1", "thief"], (
        "of this node; the others are others' to keep"
    )
    told = [problem for problem in (await daemon.ask("/status"))["problems"] if problem["severity"] == "warning"]
    assert len([problem for problem in told if "in no manifest any more" in problem["message"]]) == 3
    assert any(
        record.levelname == "WARNING" and "edgemesh release shop/thief" in record.message for record in caplog.records
    )

    def release(name: str) -> Any:
        return client.post(daemon.socket, "/release", [("name", name)])

    assert await trio.to_thread.run_sync(release, "shop/thief") == {"released": ["shop/thief"]}
    assert [workload.name for workload in ground.wanted] == ["buyer", "store-v1"]
    assert ground.events[-1] == "let go of shop/thief"
    for name in ("shop/thief", "shop/far", "nobody", ""):
        with pytest.raises(client.Answered, match="nothing is kept under the name"):
            await trio.to_thread.run_sync(release, name)


async def test_one_that_was_found_by_its_address_is_over_with_its_namespace(start: Any) -> None:
    daemon = start()
    ground = await daemon.start()
    ground.lost = frozenset({"shop/thief", "shop/far"})
    daemon.node.retention.forget_lost()
    assert daemon.node.published.number == 1, "it is named: it will be there again"
    daemon.file.unlink()
    await daemon.until(lambda: daemon.node.published.number > 1)
    await daemon.until(lambda: [workload.name for workload in ground.wanted] == ["buyer", "store-v1"])


async def test_where_workloads_are_captured_is_remembered_on_the_disk(start: Any, tmp_path: Path) -> None:
    daemon = start()
    ground = await daemon.start()
    ground.remembered.captured(Workload("shop", "buyer", "b", netns="em-buyer"))
    await daemon.node.retention.remember()
    assert State(tmp_path / "state").places() == {"netns /run/netns/em-buyer": "shop/buyer"}
    assert daemon.make().ground.remembered.places == {"netns /run/netns/em-buyer": "shop/buyer"}
