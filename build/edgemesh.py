"""The binary's first module: it records where the single file is, and continues as `python -m agent` does."""

import os
import sys
from pathlib import Path

# All modules are inside the binary. Python would also look in the directory of the file, wherever that lies.
sys.path.clear()

from agent.cli import main
from agent.system import program

# The launcher sets EDGEMESH_EXE and starts us from a directory of its own; without a launcher we are the file
# ourselves.
program.file = Path(os.environ.pop("EDGEMESH_EXE", "") or os.readlink("/proc/self/exe"))
sys.exit(main())
