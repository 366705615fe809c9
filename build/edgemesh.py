"""The binary's first module: it says where the one file is, and goes on as `python -m agent` does."""

import os
import sys
from pathlib import Path

# All that there is to import is within. Python would also look beside the file, where it happens to lie.
sys.path.clear()

from agent import program
from agent.cli import main

# From the launcher, which starts us from a directory of its own; without one we are the file ourselves.
program.file = Path(os.environ.pop("EDGEMESH_EXE", "") or os.readlink("/proc/self/exe"))
sys.exit(main())
