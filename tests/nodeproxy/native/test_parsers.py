"""Each parser of the native lane reads what it was given and nothing behind it.

tests/fuzz/fuzz_parsers.c hands it heap blocks of exactly the size of the input, compiled with AddressSanitizer: each beginning of each
input of the corpus, and some mutated ones. `make sanitize` and `make fuzz` try more of these.
"""

import os
import subprocess
from pathlib import Path

from tests.compiled import needs_lane

pytestmark = needs_lane

ROOT = Path(__file__).parents[3]


def test_no_parser_reads_past_the_end():
    ran = subprocess.run(
        [ROOT / "build" / "fuzz", "3000", "1", "parsers"],
        env=os.environ | {"LEVEL": "-O0", "LD_PRELOAD": ""},
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    assert "3000 inputs, " in ran.stdout
