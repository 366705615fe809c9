"""What holds the house: maps are true, tests mirror the tree, no circle of imports, every path that is named is there.

Each list of exceptions fails when one of its lines is no exception any more: it only shrinks.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests import house
from tests.house import PACKAGES, ROOT

# Modules without a test at the mirrored place: the test that holds one, or why there is nothing to hold.
UNMIRRORED: Mapping[str, str] = {
    "policy.lint.matches": "tests/policy/test_mistakes.py",
    "policy.lint.names": "tests/policy/test_mistakes.py",
    "policy.lint.raw": "tests/policy/lint/test_findings.py, tests/policy/test_mistakes.py",
    "nodeproxy.downstream.gateway": "tests/journeys/test_gateway.py",
    "nodeproxy.routing.gateway": "tests/journeys/test_gateway.py",
    "nodeproxy.downstream.accepted_peer": "tests/nodeproxy/downstream/test_hbone.py",
    "agent.cluster.leader": "tests/kube/test_leader.py",
    "agent.identity.kubernetes.given": "tests/kube/test_authority.py",
    "agent.identity.kubernetes.objects": "tests/kube/test_authority.py",
    "agent.identity.kubernetes.state": "tests/kube/test_authority.py",
    "agent.telemetry.sink": "tests/agent/telemetry/test_sinks.py",
    "policy.kinds.base": "tests/policy/kinds/test_smi.py",
    "policy.kinds.edgemesh": "tests/policy/test_registry.py",
    "nodeproxy.protocols.http.user": "tests/journeys/test_user_filters.py",
    "policy.kinds.fsm": "tests/policy/translate/test_plugins.py",
    "policy.kinds.kubernetes": "tests/policy/test_registry.py, tests/policy/translate/test_services.py",
    "policy.kinds.osm": "tests/policy/test_registry.py, tests/policy/translate/test_osm.py",
    "policy.translate.gateway_checks": "tests/policy/translate/test_gateway.py, tests/policy/translate/test_grpc_matches.py",
    "policy.kinds.gateway_streams": "tests/policy/translate/test_stream_routes.py",
    "policy.translate.gateway_attachment": "tests/policy/translate/test_gateways.py",
    "policy.translate.gateway_listeners": "tests/policy/translate/test_gateways.py",
    "policy.translate.gateway_references": "tests/policy/translate/test_gateways.py",
    "policy.translate.gateway_parents": "tests/policy/translate/test_gateway.py",
    "policy.translate.http_matches": "tests/policy/translate/test_gateway.py",
    "policy.model": "nothing to hold: frozen values, held by all that makes and reads them",
    "nodeproxy.fastpath.callers": "tests/journeys/test_two_lanes.py",
    "nodeproxy.fastpath.engine": "tests/nodeproxy/fastpath/test_loop.py",
    "nodeproxy.fastpath.flows": "tests/journeys/test_two_lanes.py, tests/nodeproxy/routing/test_paths_agree.py",
    "nodeproxy.fastpath.handback": "tests/journeys/test_two_lanes.py",
    "nodeproxy.protocols.http.upload": "tests/nodeproxy/protocols/http/test_bodies.py",
    "nodeproxy.fastpath.lease": "tests/journeys/test_two_lanes.py",
    "nodeproxy.fastpath.links": "tests/nodeproxy/fastpath/test_transport.py, tests/journeys/test_streams_in_the_lane.py",
    "nodeproxy.fastpath.records": "tests/journeys/test_two_lanes.py",
    "nodeproxy.fastpath.streams": "tests/journeys/test_streams_in_the_lane.py",
    "nodeproxy.h2.limits": "tests/nodeproxy/h2/test_abuse.py",
    "nodeproxy.h2.machine": "tests/nodeproxy/h2/test_connection.py",
    "nodeproxy.h2.native_machine": "tests/nodeproxy/h2/test_connection.py, tests/nodeproxy/native/test_link.py",
    "nodeproxy.h2.stream": "tests/nodeproxy/h2/test_connection.py",
    "nodeproxy.h2.transport": "tests/nodeproxy/h2/test_connection.py",
    "nodeproxy.mesh.connection": "tests/nodeproxy/mesh/test_pool.py",
    "nodeproxy.mesh.handshake": "tests/nodeproxy/mesh/test_pool.py",
    "nodeproxy.mesh.host_pool": "tests/nodeproxy/mesh/test_pool.py",
    "nodeproxy.protocols.http.http1": "tests/nodeproxy/protocols/http/test_bodies.py",
    "nodeproxy.protocols.http.http2": "tests/nodeproxy/protocols/http/test_room.py, tests/nodeproxy/h2/test_abuse.py",
    "nodeproxy.protocols.http.interfaces": "nothing to hold: interfaces",
    "nodeproxy.telemetry.counts": "tests/agent/telemetry/test_metrics.py",
    "nodeproxy.tls.credentials": "tests/agent/identity/node/test_store.py",
    "nodeproxy.tls.contexts": "tests/nodeproxy/tls/test_handshake.py",
    "nodeproxy.tls.stream": "tests/nodeproxy/tls/test_handshake.py",
    "nodeproxy.upstream.http2_pool": "tests/nodeproxy/protocols/http/test_room.py",
    "agent.admin.daemon": "nothing to hold: an interface",
    "agent.commands.authority_shown": "tests/agent/commands/test_ca.py",
    "agent.commands.nodes_shown": "tests/agent/commands/test_nodes.py",
    "agent.commands.views": "tests/agent/commands/test_nodes.py",
    "agent.commands.certs": "tests/agent/identity/node/test_report.py",
    "agent.config.checks": "tests/agent/config/test_settings.py",
    "agent.config.schema": "tests/agent/config/test_settings.py",
    "agent.demo.mesh": "tests/agent/demo/test_town.py",
    "agent.identity.authority.journal": "tests/agent/identity/authority/test_rotation.py, tests/agent/identity/authority/test_authority.py",
    "agent.identity.authority.local": "tests/agent/identity/authority/test_authority.py",
    "agent.identity.authority.state": "tests/agent/identity/authority/test_authority.py, tests/agent/store/test_damaged_state.py",
    "agent.identity.authority.tokens": "tests/agent/identity/authority/test_authority.py",
    "agent.identity.csr": "tests/agent/identity/authority/test_ca.py",
    "agent.identity.folder": "tests/agent/store/test_damaged_state.py",
    "agent.identity.node.certificate": "tests/agent/identity/node/test_manager.py",
    "agent.identity.node.roots": "tests/agent/identity/node/test_report.py",
    "agent.identity.protocol": "tests/agent/identity/authority/test_server.py",
    "agent.sources.source": "tests/agent/sources/test_sources.py",
    "agent.kernel.context": "nothing to hold: a value",
}

# Test files at a mirrored place that name no module, since they hold several: what it is that they hold.
TOPICS: Mapping[str, str] = {
    "tests/agent/sources/kubernetes/test_churn.py": "an API server that is gone, or killed, while all changes",
    "tests/agent/store/test_state_before.py": "files of state that an earlier version wrote",
    "tests/policy/test_bookstore.py": "the demo's manifests",
    "tests/policy/test_build_any_input.py": "build.py with any input at all",
    "tests/policy/test_explain_agrees.py": "explain and the proxy say the same",
    "tests/policy/test_mistakes.py": "everyday mistakes, and what is said of each",
    "tests/policy/test_osm_bookstore.py": "the bookstore of OSM's documentation, and the names of OSM's tests",
    "tests/policy/test_smi_conformance.py": "statements of SMI",
    "tests/policy/translate/test_mesh_config.py": "MeshConfig, of translate/osm.py",
    "tests/nodeproxy/fastpath/test_tunnel.py": "opaque bytes between sockets and streams, in the fast path",
    "tests/nodeproxy/h2/test_abuse.py": "hostile peers, on both state machines",
    "tests/nodeproxy/h2/test_interop.py": "another implementation of HTTP/2",
    "tests/nodeproxy/mesh/test_hostile_peers.py": "hostile peers, callers and servers",
    "tests/nodeproxy/native/test_call.py": "native/call.c and its neighbours",
    "tests/nodeproxy/native/test_chunks.py": "chunked bodies in C",
    "tests/nodeproxy/native/test_flow.py": "native/flow.c",
    "tests/nodeproxy/native/test_head.py": "native/head.c",
    "tests/nodeproxy/native/test_link.py": "native/link.c",
    "tests/nodeproxy/native/test_memory.py": "C without memory",
    "tests/nodeproxy/native/test_parsers.py": "parsers in C, with exactly sized input",
    "tests/nodeproxy/native/test_stubs.py": "native/_lane.pyi",
    "tests/nodeproxy/native/test_symbols.py": "what C files show to each other",
    "tests/nodeproxy/native/test_threads.py": "which thread frees what",
    "tests/nodeproxy/protocols/http/test_bodies.py": "bodies in both directions",
    "tests/nodeproxy/protocols/http/test_switch.py": "101 and CONNECT",
    "tests/nodeproxy/routing/test_paths_agree.py": "slow path, fast path and explain choose alike",
    "tests/nodeproxy/test_without_native.py": "all of it without the native lane",
    "tests/agent/identity/test_clocks_of_a_site.py": "a whole site whose clocks are set",
    "tests/agent/ota/test_edgemesh_bundle.py": "build/edgemesh-bundle",
    "tests/agent/store/test_damaged_state.py": "every file of state, damaged",
    "tests/agent/store/test_lacks_of_the_store.py": "the kernel has none, while the store works",
    "tests/agent/test_lacks.py": "the kernel has none, for each task of the daemon",
}


@functools.cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def packages() -> list[str]:
    return [name for name, path in house.files().items() if path.name == "__init__.py"]


# maps


@pytest.mark.parametrize("name", packages())
def test_a_package_s_map_names_its_files_and_no_other(name: str) -> None:
    """A bare `file.py` in the docstring of a package is one of it; a file of another package is named with its path."""
    path = house.files()[name]
    words = ast.get_docstring(house.tree(path)) or ""
    said = set(re.findall(r"(?<![\w/.])(\w+)\.py\b", words)) - {"__main__"}
    there = {one.stem for one in path.parent.glob("*.py")} - {"__init__", "__main__"}
    assert said == there, (
        f"{path.relative_to(ROOT)}: not named {sorted(there - said)}, not there {sorted(said - there)}"
    )
    said = set(re.findall(r"(?<![\w/.])(\w+)/(?![\w/])", words))
    there = {one.parent.name for one in path.parent.glob("*/__init__.py")}
    there |= said & {one.name for one in path.parent.iterdir() if one.is_dir()}
    assert said == there, (
        f"{path.relative_to(ROOT)}: folders not named {sorted(there - said)}, not there {sorted(said - there)}"
    )


# mirrored tests


def mirrored(path: Path) -> Path:
    return ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.stem}.py"


def unmirrored() -> set[str]:
    files = {name: path for name, path in house.files().items() if path.name not in ("__init__.py", "__main__.py")}
    return {name for name, path in files.items() if not mirrored(path).exists()}


def test_every_module_has_its_test_at_the_mirrored_place() -> None:
    missing = unmirrored() - set(UNMIRRORED)
    assert not missing, f"no tests/.../test_NAME.py, and no line in UNMIRRORED: {sorted(missing)}"


def test_no_line_of_the_unmirrored_is_stale() -> None:
    stale = set(UNMIRRORED) - unmirrored()
    assert not stale, f"these have their test, or are gone: take them out of UNMIRRORED: {sorted(stale)}"
    for name, why in UNMIRRORED.items():
        held = re.findall(r"tests/[\w/]+\.py", why)
        assert held or why.startswith("nothing to hold: "), f"{name}: which test holds it?"
        assert all((ROOT / one).exists() for one in held), f"{name}: {why}"


def nameless() -> set[str]:
    """Test files that name no module."""
    tests = [path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("test_*.py")]
    relative = {path.relative_to(ROOT / "tests") for path in tests}
    return {f"tests/{path}" for path in relative if not (ROOT / path.parent / path.name.removeprefix("test_")).exists()}


def test_every_test_file_names_a_module_or_its_topic() -> None:
    unknown = nameless() - set(TOPICS)
    assert not unknown, f"they name no module; rename them, or say in TOPICS what they hold: {sorted(unknown)}"
    stale = set(TOPICS) - nameless()
    assert not stale, f"these name a module, or are gone: take them out of TOPICS: {sorted(stale)}"


# imports


def test_no_circle_of_imports() -> None:
    circles = [sorted(circle) for circle in house.circles(house.graph())]
    assert not circles, f"files that import each other (imports of types and inside functions count): {circles}"


def test_no_import_goes_up() -> None:
    assert house.upward(house.graph(), house.contracts()) == []


def test_circles_are_found() -> None:
    arrows = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"d", "f"}, "f": {"e"}}
    found = house.circles({name: frozenset(others) for name, others in arrows.items()})
    assert sorted(map(sorted, found)) == [["a", "b", "c"], ["e", "f"]]


def test_imports_upward_are_found() -> None:
    arrows = {"p.low": {"p.high"}, "p.high": {"p.low"}, "p.left": {"p.right"}, "p.right": set(), "q": {"p.high"}}
    layers = [[["p.high"], ["p.left", "p.right"], ["p.low"]]]
    found = house.upward({name: frozenset(others) for name, others in arrows.items()}, layers)
    assert found == [("p.low", "p.high"), ("p.left", "p.right")]


def test_every_kind_of_import_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import k.a\nfrom k import b, NAME\nfrom k.c import thing\nif TYPE_CHECKING:\n    from k.d import T\ndef f():\n    import k.e\n"
    )
    assert set(house.imports(path, {"k", "k.a", "k.b", "k.c", "k.d", "k.e", "k.f"})) == {
        "k",
        "k.a",
        "k.b",
        "k.c",
        "k.d",
        "k.e",
    }


# names of files and symbols in prose

_FILE = re.compile(r"(?<![\w/.\-*{])((?:[\w\-]+/)*[\w\-]+\.py)\b")
_SYMBOL = re.compile(r"(?<![\w/.\-])((?:policy|nodeproxy|agent)(?:\.[a-zA-Z_]\w*)+)\b(?![./@])")


def prose(path: Path) -> Iterator[str]:
    """Docstrings and comments."""
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    yield from (
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text(path)).readline)
        if token.type == tokenize.COMMENT
    )


def wrong(pattern: re.Pattern[str], is_right: Callable[[str, Path], bool]) -> list[str]:
    """What of the pattern is in some prose and not right. Prose is parsed only where the text has such a word at all."""
    found = []
    for path in (path for folder in (*PACKAGES, "tests", "build") for path in sorted((ROOT / folder).rglob("*.py"))):
        suspects = {word for word in set(pattern.findall(text(path))) if not is_right(word, path)}
        if suspects and path != Path(__file__):
            said = {word for words in prose(path) for word in pattern.findall(words)}
            found += [f"{path.relative_to(ROOT)}: {word}" for word in sorted(suspects & said)]
    return found


@functools.cache
def endings() -> frozenset[str]:
    """Every way to end the path of a Python file that is there: policy/build.py, build.py."""
    paths = (
        path.relative_to(ROOT).parts
        for folder in (*PACKAGES, "tests", "build")
        for path in (ROOT / folder).rglob("*.py")
    )
    return frozenset("/".join(parts[at:]) for parts in paths for at in range(len(parts)))


def is_a_file(word: str, beside: Path) -> bool:
    return word in endings() or (beside.parent / word).exists()


def is_a_symbol(word: str, _: Path) -> bool:
    """A module, or a name that one has; of what is within that, the word is in the file."""
    parts = word.split(".")
    if parts[-1] in ("py", "c", "h") or parts[0] == parts[-1]:
        return True
    for end in range(len(parts), 1, -1):
        if (found := house.files().get(".".join(parts[:end]))) is not None:
            return all(re.search(rf"\b{rest}\b", text(found)) for rest in parts[end:])
    return re.search(rf"\b{parts[1]}\b", text(house.files()[parts[0]])) is not None


def test_files_that_prose_names_are_there() -> None:
    found = wrong(_FILE, is_a_file)
    for path in (ROOT / "nodeproxy" / "native").glob("*.[ch]"):
        found += [f"{path.name}: {word}" for word in _FILE.findall(text(path)) if not is_a_file(word, path)]
    assert not found, found


def test_symbols_that_prose_names_are_there() -> None:
    """Dotted names that begin with one of the packages."""
    found = wrong(_SYMBOL, is_a_symbol)
    assert not found, found
