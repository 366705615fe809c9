"""Calls the service manager through its own program, systemctl(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_TIMEOUT = 120  # seconds: a start waits until the daemon is ready, a stop until connections have ended


class SystemdError(Exception):
    """systemd is missing, or refused; the message has the command and systemd's reason."""


def is_there() -> bool:
    """Return whether systemd runs this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def systemctl(*words: str) -> str:
    """Run systemctl and return its output. Raise SystemdError."""
    try:
        done = subprocess.run(
            ["systemctl", "--no-ask-password", *words], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise SystemdError("systemctl is not there: this box is not run by systemd") from error
    except subprocess.TimeoutExpired as error:
        raise SystemdError(f"systemctl {' '.join(words)}: no answer within {_TIMEOUT} s") from error
    if done.returncode:
        raise SystemdError(
            f"systemctl {' '.join(words)}: {(done.stderr or done.stdout).strip() or f'exit code {done.returncode}'}"
        )
    return done.stdout


def is_active(unit: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0
