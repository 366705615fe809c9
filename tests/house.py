"""The house as a graph, read from the source alone: files, what each imports, circles, layers. `make house` prints its figures.

Every import counts: one inside a function and one for types alone (TYPE_CHECKING) tie two files together as any other does, for a reader
and for whoever moves them.
"""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("policy", "nodeproxy", "agent")
Graph = Mapping[str, frozenset[str]]


@functools.cache
def files() -> Mapping[str, Path]:
    """Every module of the three packages, by its dotted name; a package is its `__init__`."""
    return {dotted(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: Iterable[str]) -> Iterator[str]:
    """The modules among `known` that a file imports. What a package's `__init__` does not define itself is a module of it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


@functools.cache
def graph() -> Graph:
    known = files()
    return {name: frozenset(imports(path, known)) - {name} for name, path in known.items()}


def circles(arrows: Graph) -> list[frozenset[str]]:
    """Groups of two and more that all reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in arrows[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(frozenset(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def folder(name: str) -> str:
    """The folder that a module is in. A folder of folders is none: what lies in it beside them (context.py) stands for itself."""
    package = name if files()[name].name == "__init__.py" else name.rpartition(".")[0]
    return name if any(files()[package].parent.glob("*/__init__.py")) else package


def folders(arrows: Graph) -> Graph:
    """The same arrows, between folders. A folder's `__init__` is its map and its constants: an arrow to it is none to the others in it."""
    found: dict[str, set[str]] = {folder(name): set() for name in arrows}
    for name, others in arrows.items():
        found[folder(name)].update(folder(other) for other in others if folder(other) != folder(name))
    return {name: frozenset(others) for name, others in found.items()}


def contracts() -> list[list[list[str]]]:
    """The layers of pyproject.toml (import-linter), highest first; each a list of packages that are side by side."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = []
    for contract in (one for one in tool["contracts"] if one["type"] == "layers"):
        layers = [[one.strip() for one in layer.split("|")] for layer in contract["layers"]]
        for container in contract.get("containers", [""]):
            found.append([[f"{container}.{one}".lstrip(".") for one in layer] for layer in layers])
    return found


def upward(arrows: Graph, layers: list[list[list[str]]]) -> list[tuple[str, str]]:
    """Imports from a layer into one above it, or beside it."""

    def height(name: str, among: list[list[str]]) -> tuple[int, str] | None:
        for at, side_by_side in enumerate(among):
            for package in side_by_side:
                if name == package or name.startswith(f"{package}."):
                    return at, package
        return None

    found = []
    for among in layers:
        for name, others in arrows.items():
            here = height(name, among)
            for other in others if here else ():
                there = height(other, among)
                if here and there and there[1] != here[1] and there[0] <= here[0]:
                    found.append((name, other))
    return found


def floors(arrows: Graph) -> int:
    """The longest way down from a folder to one that imports none; a circle counts once."""
    group = {name: name for name in arrows}
    for circle in circles(arrows):
        group.update(dict.fromkeys(circle, min(circle)))
    below: dict[str, set[str]] = {name: set() for name in group.values()}
    for name, others in arrows.items():
        below[group[name]] |= {group[other] for other in others} - {group[name]}
    height: dict[str, int] = {}

    def high(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((high(other) for other in below[name]), default=0)
        return height[name]

    return max(high(name) for name in below)


def figures() -> str:
    arrows, between = graph(), folders(graph())
    layers = contracts()
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files().values())
    return "\n".join(
        (
            f"files            {len(files())}, {lines} lines",
            f"folders          {len(between)} on {floors(between)} floors, {sum(map(len, between.values()))} arrows",
            f"layers           {sum(map(len, layers))}, in {len(layers)} contracts",
            f"imports upward   {len(upward(arrows, layers))}",
            f"circles          {len(circles(arrows))} of files, {len(circles(between))} of folders",
        )
    )


if __name__ == "__main__":
    print(figures())
