"""What the built file must do in an empty root, for each CPU family."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from agent.demo.steps import STEPS
from tests.smoke.conftest import BAD, PATH, PATIENCE, Box, child, version

BOOK = ["--port", "14001", "--method", "GET", "--path", "/buy-a-book/new"]


def test_version(box):
    done = box.run("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgemesh {version()}\n", "")


def test_check_of_good_manifests(box):
    done = box.run("check", "/srv/step-9")
    assert done.returncode == 0 and "objects, " in done.stdout, done.stdout + done.stderr


def test_check_names_file_and_line_of_what_is_bad(box):
    done = box.run("check", "/srv/bad")
    line = BAD.splitlines().index("  adresses: [10.0.0.2]") + 1
    assert done.returncode == 1 and re.search(rf"/srv/bad/workloads\.yaml:({line}|{line - 4}): ", done.stdout), (
        done.stdout
    )
    assert "adresses" in done.stdout


@pytest.mark.parametrize("caller", ["bookbuyer", "bookthief"])
@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_policy_answers_as_the_demo_plans(box, emulator, number, caller):
    if emulator and number > 4:
        pytest.skip("the same code again: it is emulated, and slow")
    done = box.run(
        "explain", "--config", f"/srv/step-{number}", "-o", "json", *BOOK, f"{caller}/{caller}", "bookstore/bookstore"
    )
    allowed = getattr(STEPS[number - 1], caller) == "rises"
    assert json.loads(done.stdout)["allowed"] is allowed and done.returncode == (0 if allowed else 1), (
        done.stdout + done.stderr
    )


def test_a_node_joins_over_tls(box, daemon):
    """A certificate request, a signature, and HTTPS with the roots that the token names: OpenSSL and cryptography, both ways."""
    assert box.run("ca", "init", "--state", "/tmp/hub").returncode == 0
    hub = daemon("--config", "/srv/none", "--authority", name="hub")
    hub.ready()
    token = box.run("ca", "token", "--node", "leaf", "--state", "/tmp/hub")
    assert token.returncode == 0, token.stderr
    join = ["join", "--authority", "127.0.0.1:15012", "--node", "leaf", "--state", "/tmp/leaf"]
    done = box.run(*join, given=token.stdout)
    assert done.returncode == 0 and "leaf has joined the mesh cluster.local" in done.stdout, (
        done.stdout + done.stderr + hub.log()
    )
    again = box.run(*join, "--again", given=token.stdout)  # a token is good once
    assert again.returncode == 1 and "refused" in again.stderr, again.stderr
    leaf = daemon("--config", "/srv/none", name="leaf")
    leaf.ready()
    shown = json.loads(box.run("certs", "--socket", leaf.socket, "-o", "json").stdout)
    assert any(one["serial"] for one in shown["certificates"]), shown


def test_a_daemon_runs_and_ends_when_told(box, daemon):
    one = daemon("--config", "/srv/step-3")
    status = one.ready(workloads=5)
    assert status["node"] == "node" and len(status["workloads"]) == 5, status
    routes = box.run("routes", "--socket", one.socket)
    assert routes.returncode == 0 and "bookstore" in routes.stdout
    assert one.signal(signal.SIGTERM) == 0, one.log()
    assert "Traceback" not in one.log()


def test_cleanup_speaks_with_the_kernel(box, emulator):
    done = box.run("cleanup")
    assert done.returncode == 0 or emulator, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# what does not depend on the family


def test_ctrl_c_ends_a_daemon(box, daemon, native):
    one = daemon("--config", "/srv/none")
    one.ready()
    assert one.signal(signal.SIGINT) == 0 and "Traceback" not in one.log()


def test_ctrl_c_ends_a_command(box, native):
    """`join` reads its token from the standard input, and waits for it."""
    words = ["join", "--authority", "127.0.0.1:1", "--node", "x", "--state", "/tmp/x"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a runner in the background has it ignored, and hands that on
    try:
        waiting = box.start(*words, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    with waiting:
        os.kill(reader(waiting), signal.SIGINT)
        assert waiting.wait(PATIENCE) == 130
        assert (waiting.stdout.read(), waiting.stderr.read()) == ("", "")


def reader(process):
    """The program's number, once it stands in read(2) of its standard input."""
    while True:
        assert process.poll() is None, process.stderr.read()
        with contextlib.suppress(IndexError, FileNotFoundError):
            number = child(process.pid)
            if Path(f"/proc/{number}/syscall").read_text().split()[:2] == ["0", "0x0"]:
                return number


def test_a_traceback_carries_file_and_line(box, native):
    """Standard output can only be read from: nobody expects that, so it is a bug's way out."""
    done = box.run("version", closed="1</dev/null")
    assert done.returncode in (1, 120) and re.search(
        r'File ".*agent/cli\.py", line [1-9]\d*, in main\n', done.stderr
    ), done.stderr
    assert "Bad file descriptor" in done.stderr


def test_without_proc_it_says_so(box, native):
    """Its own loader, or Python's start, would only say "Aborted"."""
    inside = f'umount -l "{box.root}/proc" && exec chroot "{box.root}" /opt/edgemesh version'
    command = [*box.enter[:-2], shutil.which("unshare", path=PATH), "--mount", "sh", "-c", inside]
    done = subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 126), "126 is the launcher's, as a shell has it for what cannot be run"
    assert done.stdout == ""
    assert done.stderr.startswith("edgemesh: there is no /proc here, and it needs one")


STRANGE = {
    "a locale that is not there": {"LANG": "xx_XX.UTF-8"},
    "all of it": {"LC_ALL": "xx_XX", "LC_CTYPE": "yy", "LANGUAGE": "zz"},
    "variables of the box's Python": {
        "PYTHONHOME": "/nowhere",
        "PYTHONPATH": "/srv/bad",
        "PYTHONSTARTUP": "/x",
        "PYTHONINSPECT": "1",
    },
    "no HOME that exists": {"HOME": "/nowhere"},
    "a library of the box's": {"LD_PRELOAD": "/nowhere.so", "LD_LIBRARY_PATH": "/opt"},
    "a terminal that is unknown": {"TERM": "nonsense", "COLUMNS": "x"},
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_environment(box, native, what):
    done = box.run("check", "/srv/step-9", variables=STRANGE[what])
    assert done.returncode == 0 and "objects, " in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors(box, native, closed):
    done = box.run("version", closed=closed)
    assert (
        done.returncode == 0
        and done.stderr == ""
        and done.stdout == ("" if ">&-" in closed.split() else f"edgemesh {version()}\n")
    )


def test_a_daemon_without_standard_descriptors(daemon, native):
    one = daemon("--config", "/srv/none", closed="<&- >&- 2>&-")
    one.ready()
    assert one.signal(signal.SIGTERM) == 0


def test_from_a_tmp_where_nothing_may_be_executed(tmp_path, file, emulator, native):
    box = Box(
        tmp_path / "root",
        file,
        emulator,
        "mount -t tmpfs -o mode=1777,noexec tmpfs tmp; mount -t tmpfs -o mode=755 tmpfs run",
    )
    try:
        assert box.run("version").stdout == f"edgemesh {version()}\n"
    finally:
        box.close()


def test_a_terminal_that_went_away(box, native):
    """`edgemesh check DIR | head -1`: not a word of complaint."""
    words = box.command("check", "/srv/step-9")
    done = subprocess.run(
        ["sh", "-c", 'trap "" PIPE; "$@" | :', "sh", *words], env={}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
