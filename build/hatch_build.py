"""Makes pip install compile the native fast path where it can (build/native); elsewhere edgemesh is pure Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeLane(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        subprocess.run(["bash", str(root / "build" / "native"), sys.executable], check=True)
        if any((root / "nodeproxy" / "native").glob("_lane*.so")):
            build_data["artifacts"].append("nodeproxy/native/_lane*.so")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
