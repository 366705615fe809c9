"""A plugin of Nuitka: only the first module is compiled; everything else is kept as bytecode.

Measured (tests/bench/bench_file.py): with our own packages compiled a request of the slow lane takes 515 us of CPU instead of 318,
the idle daemon 13 MiB more, its file 4 MiB more and its start 0.1 s more. What has to be fast is the native lane.
"""

from __future__ import annotations

import marshal
import sys
from types import CodeType

from nuitka.plugins.PluginBase import NuitkaPluginBase

_dumps = marshal.dumps


def alike(value: object, known: dict[tuple[type, str], object]) -> object:
    """The same with one object for what is equal. Which constants the compiler shares depends on what else was compiled before."""
    if isinstance(value, CodeType):
        return value.replace(co_consts=tuple(alike(one, known) for one in value.co_consts))
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, tuple):
        value = tuple(alike(one, known) for one in value)
    elif isinstance(value, frozenset):
        value = frozenset(alike(one, known) for one in value)
        return known.setdefault((frozenset, str(sorted(map(repr, value)))), value)
    return known.setdefault((type(value), repr(value)), value)


def dumps(value: object, *version: int) -> bytes:
    """The same code gives the same bytes. What is marked as shared in them depends on who else holds it just then, so ask when nobody does."""
    if not isinstance(value, CodeType):
        return _dumps(value, *version)
    return _dumps(marshal.loads(_dumps(alike(value, {}), *version)), *version)  # noqa: S302 (our own)


marshal.dumps = dumps


class Bytecode(NuitkaPluginBase):
    plugin_name = "bytecode"
    plugin_desc = "compile nothing but the first module"

    def decideCompilation(self, module_name):  # noqa: N802 (Nuitka's name)
        return None if module_name.asString() == "__main__" else "bytecode"
