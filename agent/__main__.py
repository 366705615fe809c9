"""`python -m agent` is `edgemesh`."""

import sys

from agent.cli import main

sys.exit(main())
