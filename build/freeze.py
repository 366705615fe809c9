"""A plugin of Nuitka: it compiles only the first module and keeps everything else as bytecode.

Measured (tests/bench/bench_file.py): with our own packages compiled, a request on the slow path takes 515 us of CPU
instead of 318, the idle daemon 13 MiB more memory, its file 4 MiB more, and its start 0.1 s more. What must be fast is
in the native fast path.
"""

from __future__ import annotations

import marshal
import sys
from types import CodeType

from nuitka.plugins.PluginBase import NuitkaPluginBase

_dumps = marshal.dumps


def alike(value: object, known: dict[tuple[type, str], object]) -> object:
    """Return the same value with one object for all equal constants.

    Which constants the compiler shares depends on what else was compiled before.
    """
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
    """Return the same bytes for the same code.

    Which objects marshal marks as shared depends on what else refers to them at that moment, so call it when nothing
    else does.
    """
    if not isinstance(value, CodeType):
        return _dumps(value, *version)
    return _dumps(marshal.loads(_dumps(alike(value, {}), *version)), *version)  # noqa: S302 (our own)


marshal.dumps = dumps


class Bytecode(NuitkaPluginBase):
    plugin_name = "bytecode"
    plugin_desc = "compile nothing but the first module"

    def decideCompilation(self, module_name):  # noqa: N802 (Nuitka's name)
        return None if module_name.asString() == "__main__" else "bytecode"
