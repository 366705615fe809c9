"""The command line: `main` finds a command in agent.commands.COMMANDS, runs it, and returns its exit code.

Exit codes: 0 success; 1 the result is negative, or something is wrong; 2 the command line is invalid (and of check
--strict: there is a warning); 3 no daemon responded; 130 interrupted. A container runtime starts its plugins without any
word: then agent/nri/boot.py runs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from agent.commands import COMMANDS, NO, OK, USAGE, parser
from policy.near import did_you_mean


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own). Raise SystemExit for --help and for invalid lines."""
    words = list(sys.argv[1:] if words is None else words)
    if not words and (connection := _runtime()):
        from agent.nri import boot

        return boot.run(connection)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        known = did_you_mean(words[0], COMMANDS) or f"commands: {', '.join(COMMANDS)}"
        print(f"edgemesh: there is no command {words[0]!r}; {known}", file=sys.stderr)
        return USAGE
    try:
        code = _run(words)
        if sys.stdout is not None:  # closed when we were started (>&-)
            sys.stdout.flush()
    except BrokenPipeError:
        # `edgemesh routes | head`: the reader has closed the pipe. Python would complain again when it flushes at exit.
        _to_nowhere()
        return OK
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
            raise
        _to_nowhere()
        print(f"edgemesh: what this tells cannot be written to standard output: {error.strerror}", file=sys.stderr)
        return NO
    return code


def _runtime() -> str:
    """Return the descriptor of the container runtime that started us as its plugin; "" for none."""
    from agent.config.settings import environment

    return environment().nri_plugin


def _run(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in COMMANDS:
        top = parser.top()
        top.parse_args(words)
        top.print_help()
        return USAGE
    typed, command = parser.one(name)
    arguments = typed.parse_args(words[1:])
    if COMMANDS[name].kernel and not os.path.exists("/proc/self"):
        print("edgemesh: there is no /proc here, and it needs one: mount -t proc proc /proc", file=sys.stderr)
        return NO
    return command.run(arguments)


def _to_nowhere() -> None:
    """Discard what is still to be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
