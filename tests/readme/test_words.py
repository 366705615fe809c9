"""Whatever a document calls by name is there: make targets, edgemesh commands with their options, files that are linked to."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agent import cli
from agent.commands import COMMANDS
from tests.readme.script import TREE

DOCUMENTS = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=TREE, capture_output=True, text=True, check=True
).stdout.split()
TARGETS = set(re.findall(r"^([a-z][a-z0-9_-]*):", (TREE / "Makefile").read_text(), re.MULTILINE))
FAMILIES = ("x86_64", "aarch64", "riscv64", "loong64")
WITH_VERBS = ("ca", "mesh", "metrics", "namespace", "policy", "support", "uninstall", "verify")


def spoken(document: str) -> Iterator[str]:
    """Every piece of code in a document, a line each, without prompts and remarks."""
    text = (TREE / document).read_text("utf-8")
    for block in re.findall(r"^(?: {4}\S.*\n)+", text, re.MULTILINE):
        for line in block.splitlines():
            yield re.sub(r"^([a-z0-9-]*[#$] )?", "", re.sub(r"\s{2,}# .*$", "", line.strip()))
    yield from re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_targets_of_make(document: str) -> None:
    known = (
        TARGETS
        | {f"{verb}-{family}" for verb in ("dist", "smoke") for family in FAMILIES}
        | {"smoke-FAMILY", "dist-FAMILY"}
    )
    for code in spoken(document):
        if found := re.match(r"make ([a-z][a-z0-9_A-Z-]*)", code):
            assert found[1] in known, f"{document}: {code}"


@cache
def options(*verbs: str) -> set[str]:
    """What a command takes, by its own --help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        cli.main([*verbs, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", said.getvalue()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_edgemesh(document: str) -> None:
    made = re.findall(
        'title="agent/commands/([a-z]+).py"', (TREE / document).read_text("utf-8")
    )  # that the page has its reader make
    for code in spoken(document):
        found = re.match(r"(?:\S*/)?edgemesh ([a-z-]+)(?: ([a-z]+(?:-[a-z]+)*)\b)?", code)
        if not found or not re.match(r"\S*edgemesh ", code):
            continue
        verb, sub = found[1], found[2]
        if verb in made or any(near.startswith(verb) for near in made):
            continue
        assert verb in COMMANDS, f"{document}: {code}"
        takes = options(verb) | (options(verb, sub) if verb in WITH_VERBS and sub else set())
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code):
            assert option in takes, f"{document}: {code}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_tree(document: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (TREE / document).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert ((TREE / document).parent / target).exists(), f"{document} links to {target}"


FILES = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=TREE, capture_output=True, text=True, check=True
).stdout.split()
FOLDERS = {f"{folder}/" for name in FILES for folder in Path(name).parents}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_folders_of_the_source(document: str) -> None:
    """A source file or folder that is named is there; it may be named by its last parts. A page of docs/ may have its reader make one."""
    text = (TREE / document).read_text("utf-8")
    made = re.findall('title="([^"]+)"', text)
    for code in spoken(document):
        for name in re.findall(r"(?<![\w/.*<-])(?:[a-z_0-9-]+/)*[a-z_0-9-]+\.(?:py|c|h|pyi)(?![\w.*-])", code):
            there = any(file == name or file.endswith(f"/{name}") for file in [*FILES, *made])
            assert there, f"{document} names {name}, which is nowhere"
        if re.fullmatch(r"(?:[a-z_0-9]+/)+", code) and code.split("/")[0] in {
            "agent",
            "nodeproxy",
            "policy",
            "tests",
            "build",
            "docs",
        }:
            assert code in FOLDERS, f"{document} names the folder {code}, which is nowhere"
