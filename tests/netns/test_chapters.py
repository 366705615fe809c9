"""Each chapter of the demo with the real daemon, kernel and curl: every expectation of every scene holds."""

from __future__ import annotations

import io
import os
import shutil

import pytest
from rich.console import Console

from agent.demo.chapters import CHAPTERS
from agent.demo.story import Story
from agent.demo.village import Village

pytestmark = [pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_holds(tmp_path, name):
    out, chapter, private = io.StringIO(), CHAPTERS[name], not os.access("/etc", os.W_OK)
    with Village(tmp_path / "demo", private, "emt-") as village:
        code = Story(village, private, Console(file=out, width=150)).run(chapter, len(chapter.scenes), False)
    assert code == 0, out.getvalue()
