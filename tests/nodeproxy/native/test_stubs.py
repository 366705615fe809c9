"""What _lane.pyi says of the compiled module is what the module has: its numbers, types, methods and the fields of its records."""

import ast
from pathlib import Path

from nodeproxy import native
from tests.compiled import needs_lane

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.native import _lane

STUBS = ast.parse((Path(native.__file__).parent / "_lane.pyi").read_text()).body
CLASSES = {one.name: one for one in STUBS if isinstance(one, ast.ClassDef)}
NUMBERS = {one.target.id for one in STUBS if isinstance(one, ast.AnnAssign)}
ONLY_TYPED = {"Stats"}  # a dict


def bases(one: ast.ClassDef) -> set[str]:
    return {base.id for base in one.bases if isinstance(base, ast.Name)}


def members(one: ast.ClassDef) -> list[str]:
    return [item.target.id if isinstance(item, ast.AnnAssign) else item.name for item in one.body]


def shown(of: object) -> set[str]:
    return {name for name in vars(of) if not name.startswith("_")}


def test_numbers_and_types():
    assert shown(_lane) == NUMBERS | CLASSES.keys() - ONLY_TYPED
    assert {name for name in NUMBERS if type(getattr(_lane, name)) is not int} == set()


def test_members():
    for name, one in CLASSES.items():
        if name not in ONLY_TYPED and "NamedTuple" not in bases(one):
            assert {member for member in members(one) if member != "__init__"} == shown(getattr(_lane, name)), name


def test_fields_of_records():
    records = {name: one for name, one in CLASSES.items() if "NamedTuple" in bases(one)}
    assert "Given" in records
    for name, one in records.items():
        assert members(one) == list(getattr(_lane, name).__match_args__), name


def test_the_package_shows_all_of_it():
    assert set(native.__all__) - {"AVAILABLE"} == shown(_lane)
