"""README.md and the how-tos of docs/ as scripts: their commands in order, where each is typed, and what they say that it prints.

A command stands in an indented block behind a prompt: `$` for anybody and `#` for root, in the checkout; `box#`, `shop-1#` for root of a box of that name. Two
spaces and a `#` begin a remark. A line without a prompt is something that the command before it prints. Fenced YAML is a manifest;
`title="FILE"` behind it says which file the reader writes it to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

TREE = Path(__file__).parents[2]
PROMPT = re.compile(r"(?P<where>[a-z][a-z0-9-]*)?(?P<sign>[#$]) (?P<words>.+)")
REMARK = re.compile(r"\s{2,}# .*$")


class Command(NamedTuple):
    section: str
    where: str  # the name of a box; "" is the checkout
    root: bool
    words: str
    prints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}{'#' if self.root else '$'} {self.words}"


class Manifest(NamedTuple):
    section: str
    text: str
    file: str = ""


def read(text: str) -> Iterator[Command | Manifest]:
    """Every command and manifest of a document. Raise ValueError for an indented line that is neither a command nor printed by one."""
    section = ""
    tokens = MarkdownIt().parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            section = tokens[at + 1].content
        elif token.type == "fence" and token.info.startswith("yaml"):
            title = re.search('title="([^"]+)"', token.info)
            yield Manifest(section, token.content, title[1] if title else "")
        elif token.type == "code_block" or (token.type == "fence" and not token.info):
            yield from _commands(section, token.content)


def _commands(section: str, block: str) -> Iterator[Command]:
    command = None
    for line in filter(None, map(str.strip, block.splitlines())):
        found = PROMPT.fullmatch(line)
        if found:
            if command:
                yield command
            command = Command(section, found["where"] or "", found["sign"] == "#", REMARK.sub("", found["words"]))
        elif command:
            command = command._replace(prints=(*command.prints, line))
        else:
            raise ValueError(f"{section}: neither a command nor what one prints: {line}")
    if command:
        yield command


def readme() -> list[Command | Manifest]:
    return list(read((TREE / "README.md").read_text("utf-8")))


def commands(section: str) -> list[Command]:
    found = [command for command in readme() if isinstance(command, Command) and command.section == section]
    assert found, f"README.md has no commands in a section {section!r}"
    return found


def manifests(section: str) -> list[str]:
    return [manifest.text for manifest in readme() if isinstance(manifest, Manifest) and manifest.section == section]
