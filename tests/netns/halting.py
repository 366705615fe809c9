"""edgemesh that halts at a step of an update, for tests that kill somebody there. Runs as a program: halting.py FOLDER WORDS...

It halts where FOLDER holds a file of the step's name: it writes its pid to STEP.reached, and goes on when STEP is gone.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The steps of an update in their order, and who is halted there.
STEPS = {
    "staged": "CLI",  # the release is there, and nobody knows of it
    "lent": "successor",  # it has everything, and has not said yet that it is well
    "well": "daemon",  # it has heard so, and the link leads to the old release
    "committed": "daemon",  # the link leads to the new one, which may not serve yet
    "gone": "successor",  # it serves, and has not said so yet
    "taken": "CLI",  # all is done, but nothing of it written down
}


def halt(folder: Path, step: str) -> None:
    if (folder / step).exists():
        new = folder / f".{step}"
        new.write_text(str(os.getpid()))
        new.rename(folder / f"{step}.reached")
        while (folder / step).exists():
            time.sleep(0.005)


def before(folder: Path, step: str, owner: Any, name: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(real)
    def halted(*words: Any, **more: Any) -> Any:
        halt(folder, step)
        return real(*words, **more)

    setattr(owner, name, halted)


def main() -> int:
    folder = Path(sys.argv[1])
    sys.argv = ["edgemesh", *sys.argv[2:]]
    from agent import cli
    from agent.commands import update
    from agent.daemon import handover, leader
    from agent.ota.releases import Releases

    if sys.argv[1] == "update":
        before(folder, "staged", update, "_take_up")
        before(folder, "taken", Releases, "prune")
    else:
        before(folder, "lent", handover.Predecessor, "report")
        before(folder, "well", Releases, "switch")
        before(folder, "committed", leader.Leadership, "_let_go")
        before(folder, "gone", handover.Predecessor, "opened")
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
