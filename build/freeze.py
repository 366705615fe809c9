"""A plugin of Nuitka: only the first module is compiled; everything else is kept as bytecode.

Measured (tests/bench/bench_file.py): with our own packages compiled a request of the slow lane takes 515 us of CPU instead of 318,
the idle daemon 13 MiB more, its file 4 MiB more and its start 0.1 s more. What has to be fast is the native lane.
"""

from __future__ import annotations

from nuitka.plugins.PluginBase import NuitkaPluginBase


class Bytecode(NuitkaPluginBase):
    plugin_name = "bytecode"
    plugin_desc = "compile nothing but the first module"

    def decideCompilation(self, module_name):  # noqa: N802 (Nuitka's name)
        return None if module_name.asString() == "__main__" else "bytecode"
