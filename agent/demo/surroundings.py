"""What the demo needs of the machine: programs, the right to make namespaces, and a writable /run and resolver.

As root with a writable /etc the demo works in the machine's own mount namespace, so that `ip netns exec em-bookthief
curl ...` works from any other terminal. Otherwise it re-executes itself under `unshare`. Without root that is in a user
namespace of its own, where it is root only over what it makes there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import agent
from agent.demo.plan import RESOLV_CONF
from agent.system import program

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = {  # program: Debian package
    "ip": "iproute2",
    "curl": "curl",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
_INSIDE = "EDGEMESH_DEMO_INSIDE"  # set when we re-executed ourselves: a second time would not help
_UID_MAP = Path("/proc/self/uid_map")
_WHOLE_BOX = ["0", "0", "4294967295"]  # its content outside any user namespace (user_namespaces(7))


class Unsuited(Exception):  # noqa: N818 - it is an answer for people, not a fault
    """The demo cannot run here; the message says what to do about it."""


def find(program: str) -> str | None:
    """Return the program's path, also outside a user's PATH (/usr/sbin holds ip and mariadbd)."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{PATH}")


def environment() -> dict[str, str]:
    """Return our environment for children: they find the same packages as we do, and the programs in /usr/sbin.

    Without EDGEMESH_SOCKET and its like: these name the machine's own daemon, and would take precedence over the
    settings of the demo's.
    """
    found = {name: value for name, value in os.environ.items() if not name.startswith("EDGEMESH_")}
    found["PATH"] = f"{found.get('PATH', '')}:{PATH}".lstrip(":")
    root = str(Path(agent.__file__).resolve().parent.parent)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [root, found.get("PYTHONPATH", "")]))
    return found


def prepare(arguments: Sequence[str]) -> bool:
    """Make sure that the demo can work here. It may replace this process by `demo` with `arguments` under `unshare`.

    Return True in a mount namespace of our own, which other terminals must enter first. Raise Unsuited.
    """
    missing = sorted({package for program, package in NEEDED.items() if find(program) is None})
    if missing:
        raise Unsuited(f"the demo needs {', '.join(missing)}: sudo apt-get install {' '.join(missing)}")
    if _in_user_namespace() or _INSIDE in os.environ:
        if os.geteuid() != 0:
            raise Unsuited(
                "in this user namespace we are not root: start it with `unshare --user --map-root-user --net --mount`"
            )
        _own_run_and_resolver()
        return True
    if os.geteuid() != 0 or not os.access("/etc", os.W_OK):
        _reexecute(arguments)
    return False


def _reexecute(arguments: Sequence[str]) -> NoReturn:
    flags = ["--net", "--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net", "--mount"]
    tried = subprocess.run(
        [find("unshare") or "unshare", *flags, "true"], capture_output=True, text=True, check=False, env=environment()
    )
    if tried.returncode:
        raise Unsuited(
            f"`unshare {' '.join(flags)}` failed: {tried.stderr.strip()}. Run the demo as root (sudo), or allow user namespaces: "
            "sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), "
            "user.max_user_namespaces greater than 0"
        )
    command = [find("unshare") or "unshare", *flags, *program.command(), "demo", *arguments]
    os.execve(command[0], command, environment() | {_INSIDE: "1"})  # noqa: S606


def enter_command(private: bool) -> str:
    """Return what goes before a command in another terminal to enter the demo's namespaces; "" for none."""
    if not private:
        return ""
    user = "--user --preserve-credentials " if _in_user_namespace() else ""
    return f"nsenter --target {os.getpid()} {user}--net --mount "


def _in_user_namespace() -> bool:
    return _UID_MAP.read_text().split() != _WHOLE_BOX


def _own_run_and_resolver() -> None:
    """Mount a /run of our own for `ip netns`, and our resolv.conf over the machine's.

    No process outside sees either, and both vanish with us.
    """
    resolver = Path("/etc/resolv.conf")
    subprocess.run(
        ["ip", "link", "set", "lo", "up"], check=False, env=environment()
    )  # it is down in a new network namespace
    if not os.access("/run", os.W_OK):
        _mount("-t", "tmpfs", "-o", "mode=755", "edgemesh-demo", "/run")
    target = resolver.resolve()
    if not target.exists():  # systemd-resolved keeps it in the /run that we have just covered
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(RESOLV_CONF)
        return
    ours = Path("/run/edgemesh-demo-resolv.conf")
    ours.write_text(RESOLV_CONF)
    _mount("--bind", str(ours), str(target))


def _mount(*arguments: str) -> None:
    done = subprocess.run([find("mount") or "mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsuited(
            f"`mount {' '.join(arguments)}` failed: {done.stderr.strip()}. The demo needs a mount namespace of its own: "
            "unshare --user --map-root-user --net --mount edgemesh demo"
        )


def edgemesh() -> str:
    """Return the command for this edgemesh: its name, its path in the virtual environment, or our own command line."""
    if shutil.which("edgemesh"):
        return "edgemesh"
    beside = Path(sys.executable).with_name("edgemesh")
    return str(beside) if beside.exists() else " ".join(program.command())
