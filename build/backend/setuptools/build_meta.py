"""Stands in for the build backends of the sources that build/static has pip download.

It reports what PKG-INFO says, so that none of their code runs.
"""

import re
import sys
from pathlib import Path

__all__ = ["prepare_metadata_for_build_wheel"]


def prepare_metadata_for_build_wheel(folder: str, config_settings: object = None) -> str:
    text = Path("PKG-INFO").read_text()
    name, version = (re.search(rf"^{field}: (.*)", text, re.M)[1] for field in ("Name", "Version"))  # type: ignore[index]
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    Path(folder, info).mkdir()
    Path(folder, info, "METADATA").write_text(text)
    return info


__legacy__ = sys.modules[__name__]
