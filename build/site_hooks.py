"""Hooks of mkdocs: pages of the tree's root (such as BENCHMARKS.md) become pages of the site too.

A link of such a page into docs/ becomes a link to that page, and a link to another page of the root a link to that one.
A link to any other file of the tree becomes the file's name alone, since the site's readers need not have a checkout.
Pages of docs/ link to pages of the root as files of the tree too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TREE = Path(__file__).resolve().parent.parent
FOLDER = "project"
PAGES = {
    f"{name}.md": f"{FOLDER}/{name.lower()}.md"
    for name in ("README", "ARCHITECTURE", "BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "SECURITY")
}
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^):\s#]+)(?P<anchor>#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    folder = Path("docs", page.file.src_uri).parent

    def relinked(found: re.Match[str]) -> str:
        target = os.path.normpath(folder / found["target"])
        if target not in PAGES:
            return found["text"] if (TREE / target).exists() and not target.startswith("docs/") else found[0]
        return f"[{found['text']}]({os.path.relpath(Path('docs', PAGES[target]), folder)}{found['anchor'] or ''})"

    return markdown if page.file.src_uri.startswith(FOLDER) else _LINK.sub(relinked, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, path in PAGES.items():
        if (TREE / name).exists():
            text = _LINK.sub(_relinked, (TREE / name).read_text("utf-8"))
            files.append(File.generated(config, path, content=text))
    return files


def _relinked(found: re.Match[str]) -> str:
    text, target, anchor = found["text"], found["target"], found["anchor"] or ""
    if not (TREE / target).exists():
        raise PluginError(f"a page of the tree's root links to {target}, which is nowhere")
    if target in PAGES:
        return f"[{text}]({os.path.relpath(PAGES[target], FOLDER)}{anchor})"
    if target.startswith("docs/") and target.endswith(".md"):
        return f"[{text}]({os.path.relpath(target.removeprefix('docs/'), FOLDER)}{anchor})"
    return text if "`" in text or text != target else f"`{text}`"
