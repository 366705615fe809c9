"""The launcher of the one file (build/launcher/launcher.c) against boxes that lie, break and are full.

It runs as root before anything else of ours, so it is tested like a door: compiled here, as it is shipped and again with sanitizers, put
before a small tree of files, and started in roots of its own (tests/build/stub.c). Needs root or user namespaces, a C compiler, and zstd.
"""

import importlib.util
import os
import random
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ROOTLESS = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
NOBODY = 65534
NEEDED = {"gcc": "gcc libc6-dev", "zstd": "zstd", "unshare": "util-linux"}
HEADERS = {"blake2.h": "libb2-dev", "zstd.h": "libzstd-dev"}
BASES = ("var/cache", "run", "dev/shm", "tmp")

found = importlib.util.spec_from_file_location("pack", ROOT / "build" / "in-root" / "pack.py")
pack = importlib.util.module_from_spec(found)
found.loader.exec_module(pack)


def lacking():
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if shutil.which("gcc"):
        for header, package in HEADERS.items():
            text = f"#include <{header}>\n"
            done = subprocess.run(
                ["gcc", "-xc", "-E", "-o", "/dev/null", "-"], input=text, text=True, capture_output=True, check=False
            )
            missing += [package] if done.returncode else []
    return (
        f"the launcher's tests need {' '.join(missing)}: apt-get install {' '.join(missing)}"
        if missing
        else "needs root"
        if os.geteuid()
        else ""
    )


@pytest.fixture(scope="module", autouse=True)
def possible():
    if reason := lacking():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture
def another_user():
    if ROOTLESS:
        pytest.skip("needs another user, which a user namespace does not have")


def compiled(folder, name, source, *flags):
    subprocess.run(
        ["gcc", "-std=gnu2x", "-Wall", "-Wextra", "-Werror", "-o", folder / name, source, *flags], check=True
    )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, possible):
    """Both launchers, the stub and an evil one."""
    folder = tmp_path_factory.mktemp("workshop")
    launcher = ROOT / "build" / "launcher" / "launcher.c"
    hard = ["-Wshadow", "-Wconversion", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
    compiled(folder, "plain", launcher, "-O2", *hard, "-static-pie", "-lb2", "-lzstd")
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compiled(folder, "sanitized", launcher, "-O1", "-g", *checks, "-lb2", "-lzstd")
    compiled(folder, "jump", HERE / "stub.c", "-O1", "-static")
    compiled(folder, "stub", HERE / "stub.c", "-O1", "-static")
    compiled(folder, "evil", HERE / "stub.c", "-O1", "-static", "-DEVIL")
    return folder


@pytest.fixture(scope="module")
def bundle(workshop):
    """bundle(kind, seed): one file; another seed is another version."""
    made = {}

    def make(kind, seed=1):
        if (kind, seed) not in made:
            folder = workshop / f"{kind}-{seed}"
            chance = random.Random(seed)
            files = {
                "edgemesh": (workshop / "stub").read_bytes(),
                "app": b"the program",
                "empty": b"",
                "data.bin": chance.randbytes(700_000),
            }
            files |= {"lib/a/one.so": chance.randbytes(5000), "lib/b/x": b"x", "lib/b/y": b"y" * 300_000}
            for name, data in files.items():
                (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / "tree" / name).write_bytes(data)
            pack.pack(folder / "tree", workshop / kind, folder / "edgemesh")
            made[kind, seed] = folder / "edgemesh"
        return made[kind, seed]

    return make


class Parts:
    """A bundle taken apart."""

    def __init__(self, path):
        body, self.trailer = path.read_bytes()[: -pack.TRAILER.size], path.read_bytes()[-pack.TRAILER.size :]
        frame, index, _, _ = pack.TRAILER.unpack(self.trailer)
        self.index, body = body[len(body) - index :], body[: len(body) - index]
        self.frame, self.launcher = body[len(body) - frame :], body[: len(body) - frame]


class Told:
    """What the stub said, or how the launcher ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        assert "Sanitizer" not in err and "runtime error" not in err, err
        self.lines = out.splitlines()

    def each(self, kind):
        return [line.partition(" ")[2] for line in self.lines if line.startswith(f"{kind} ")]

    @property
    def at(self):
        """The directory that was used."""
        assert self.code == 0, self.err
        assert "evil" not in self.lines
        return Path(self.each("word")[2])

    @property
    def refused(self):
        """Why nothing was executed."""
        assert self.code == 126 and self.err.startswith("edgemesh: ") and not self.out, (self.code, self.out, self.err)
        return self.err


class Box:
    """A root with nothing in it but directories to lay out in."""

    def __init__(self, folder, workshop, file, bases=("tmp",)):
        self.root, self.workshop, self.file = folder, workshop, file
        for name in (*bases, "proc", "opt", "dev"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(0o1777 if name in ("tmp", "dev/shm") else 0o755)
        (folder / "dev/null").touch()
        self.install(file)
        linked = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        for library in {word for word in linked.split() if word.startswith("/")}:  # what the sanitized one needs
            (folder / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, folder / library[1:])

    def install(self, file, name="edgemesh"):
        shutil.copy(file, self.root / "opt" / name)
        return f"/opt/{name}"

    def command(
        self,
        *words,
        mounts="",
        after="",
        proc=True,
        user=0,
        closed=False,
        most=0,
        program="/opt/edgemesh",
        variables=None,
    ):
        """`mounts`, `after`: shell, in the box's directory and a mount namespace of its own."""
        given = [f"{name}={value}" for name, value in (variables or {}).items()]
        jump = [self.workshop / "jump", self.root, user, int(closed), most, len(given), *given, program, *words]
        # Not a new /proc: in a user namespace that takes a new PID namespace too.
        steps = [
            "set -eu",
            'cd "$0"',
            mounts or ":",
            "mount --rbind /proc proc" if proc else ":",
            "mount --bind /dev/null dev/null",
        ]
        steps.append(f'"$@"\n{after}' if after else 'exec "$@"')
        return ["unshare", "--mount", "sh", "-c", "\n".join(steps), str(self.root), *map(str, jump)]

    def start(self, *words, **how):
        command = self.command(*words, **how)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
        return Told(done.returncode, done.stdout, done.stderr)

    def start_at_once(self, number):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        starts = [subprocess.Popen(self.command(), text=True, **pipes) for _ in range(number)]
        ends = [start.communicate(timeout=60) for start in starts]
        return [Told(start.returncode, *end) for start, end in zip(starts, ends, strict=True)]

    def trees(self, base="tmp"):
        return sorted(path.name for path in (self.root / base).iterdir() if path.name.startswith("edgemesh-"))

    def seen(self, path):
        return self.root / str(path)[1:]


@pytest.fixture(params=["plain", "sanitized"])
def kind(request):
    return request.param


@pytest.fixture
def box(tmp_path, workshop, bundle, kind):
    return Box(tmp_path / "box", workshop, bundle(kind))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode & 0o7777,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


# laid out, and used


def test_lays_out_once_and_starts_the_program_with_the_loader_of_the_tree(box):
    first = box.start("run", "--config", "a b")
    at = first.at
    words = [
        f"{at}/edgemesh",
        "--library-path",
        str(at),
        "--argv0",
        "/opt/edgemesh",
        f"{at}/app",
        "run",
        "--config",
        "a b",
    ]
    assert at.parent == Path("/tmp") and first.each("word") == words
    made = box.seen(at)
    whole, packed = contents(made), contents(box.file.parent / "tree")
    assert made.lstat().st_mode & 0o7777 == 0o700 and whole["edgemesh"][0] == 0o700 and whole["data.bin"][0] == 0o600
    assert {name: data for name, (_, data) in whole.items()} == {name: data for name, (_, data) in packed.items()}
    inode = made.stat().st_ino
    assert box.start().at == at and made.stat().st_ino == inode and box.trees() == [at.name]


def test_the_first_directory_that_will_do_is_taken(tmp_path, workshop, bundle):
    box = Box(tmp_path / "box", workshop, bundle("plain"), BASES)
    assert box.start().at.parent == Path("/var/cache/edgemesh")
    assert (box.root / "var/cache/edgemesh").stat().st_mode & 0o7777 == 0o700
    (box.root / "srv").mkdir()
    assert box.start(variables={"EDGEMESH_UNPACK": "/srv"}).at.parent == Path("/srv")


def alter(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_directory(path):
    path.unlink()
    path.mkdir(0o700)


def replace_by_link(path, tree):
    """To the very same, elsewhere: only that it is a link is wrong."""
    path.rename(tree.with_name("copy"))
    path.symlink_to("/tmp/copy")


DAMAGE = {
    "the loader is another program": lambda tree, evil: shutil.copyfile(evil, tree / "edgemesh"),
    "the first byte": lambda tree, _: alter(tree / "data.bin", 0),
    "the last byte": lambda tree, _: alter(tree / "data.bin", -1),
    "one byte more": lambda tree, _: (tree / "lib/b/x").write_bytes(b"xx"),
    "torn by a power cut": lambda tree, _: os.truncate(tree / "data.bin", 4096),
    "zeros after a power cut": lambda tree, _: (tree / "lib/b/y").write_bytes(bytes(300_000)),
    "a file is missing": lambda tree, _: (tree / "empty").unlink(),
    "a file too many": lambda tree, _: (tree / "lib/a/evil.so").touch(0o600),
    "a directory too many": lambda tree, _: (tree / "lib/c").mkdir(),
    "a link too many": lambda tree, _: (tree / "link").symlink_to("data.bin"),
    "a link for a file": lambda tree, _: replace_by_link(tree / "data.bin", tree),
    "a link for a directory": lambda tree, _: replace_by_link(tree / "lib/a", tree),
    "a link for the tree": lambda tree, _: replace_by_link(tree, tree),
    "a file for the tree": lambda tree, _: (shutil.rmtree(tree), tree.touch()),
    "a FIFO for a file": lambda tree, _: replace_by_fifo(tree / "data.bin"),
    "a directory for a file": lambda tree, _: replace_by_directory(tree / "data.bin"),
    "others may write a file": lambda tree, _: (tree / "data.bin").chmod(0o666),
    "a file is setuid": lambda tree, _: (tree / "edgemesh").chmod(0o4700),
    "others may look into the tree": lambda tree, _: tree.chmod(0o755),
    "others may write to a directory": lambda tree, _: (tree / "lib/a").chmod(0o777),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_as_it_was_laid_out_is_laid_out_anew(box, workshop, damage):
    at = box.start().at
    tree = box.seen(at)
    before = contents(tree)
    DAMAGE[damage](tree, workshop / "evil")
    assert box.start().at == at
    assert contents(tree) == before and not tree.is_symlink() and tree.stat().st_mode & 0o7777 == 0o700
    inode = tree.stat().st_ino
    assert box.start().at == at and tree.stat().st_ino == inode and box.trees() == [at.name]


def test_a_file_of_another_owner_is_laid_out_anew(box, another_user):
    at = box.start().at
    os.chown(box.seen(at) / "lib/a/one.so", NOBODY, NOBODY)
    assert box.start().at == at and (box.seen(at) / "lib/a/one.so").stat().st_uid == 0


# directories that are not to be trusted


def test_a_directory_where_others_may_exchange_things_is_refused(box):
    for mode in (0o777, 0o775, 0o757):
        (box.root / "tmp").chmod(mode)
        assert "/tmp: others may write to it" in box.start().refused and box.trees() == []
    (box.root / "tmp").chmod(0o1777)
    assert box.start().at


def test_a_directory_of_somebody_else_is_refused_and_not_touched(box, another_user):
    os.chown(box.root / "tmp", NOBODY, NOBODY)
    assert "/tmp: it, or one above it, is somebody else's" in box.start().refused and box.trees() == []


def test_a_tree_that_somebody_else_put_there_is_neither_used_nor_touched(box, another_user):
    """Its name can be known before: /tmp is for everybody."""
    at = box.start().at
    tree = box.seen(at)
    for path in (tree, *tree.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    before = contents(tree)
    ours = box.start().at
    assert ours == Path(f"{at}-1") and box.trees() == [at.name, ours.name]
    assert contents(tree) == before and tree.stat().st_uid == NOBODY
    inode = box.seen(ours).stat().st_ino
    assert box.start().at == ours and box.seen(ours).stat().st_ino == inode


def test_when_somebody_else_took_all_names_it_is_refused(box, another_user):
    at = box.start().at
    shutil.rmtree(box.seen(at))
    for name in (at.name, *(f"{at.name}-{number}" for number in range(1, 8))):
        taken = box.root / "tmp" / name
        taken.symlink_to("/opt")
        os.chown(taken, NOBODY, NOBODY, follow_symlinks=False)
    before = box.trees()
    assert "/tmp: Operation not permitted" in box.start().refused and box.trees() == before


@pytest.mark.parametrize(("above", "owner"), [(0o777, 0), (0o755, NOBODY)])
def test_the_wished_directory_is_as_safe_as_all_above_it(box, another_user, above, owner):
    (box.root / "srv/in/own").mkdir(parents=True)
    (box.root / "srv/in/own").chmod(0o700)
    assert box.start(variables={"EDGEMESH_UNPACK": "/srv/in/own"}).at.parent == Path("/srv/in/own")
    (box.root / "srv/in").chmod(above)
    os.chown(box.root / "srv/in", owner, owner)
    assert box.start(variables={"EDGEMESH_UNPACK": "/srv/in/own"}).at.parent == Path("/tmp")


def test_the_wished_directory_is_used_by_its_own_name_and_not_by_a_link(box):
    (box.root / "srv").mkdir()
    (box.root / "opt/link").symlink_to("/srv")
    assert box.start(variables={"EDGEMESH_UNPACK": "/opt/link"}).at.parent == Path("/srv")


HOSTILE = [
    "",
    "srv",
    "../srv",
    "/nowhere",
    "/opt/edgemesh",
    "/srv:/tmp/evil",
    "/srv;x",
    "/$ORIGIN",
    ("/" + "x" * 200) * 50,
    "%s%n%s%n",
]


@pytest.mark.parametrize("wished", HOSTILE, ids=lambda wished: wished[:14])
def test_a_hostile_wish_is_passed_over(box, wished):
    for name in ("srv", "srv:/tmp/evil", "srv;x", "$ORIGIN"):
        (box.root / name).mkdir(parents=True, exist_ok=True)
    assert box.start(variables={"EDGEMESH_UNPACK": wished}).at.parent == Path("/tmp")


def test_a_wish_too_long_to_be_executed_is_passed_over(box):
    deep = "/".join(["d" * 200] * 12)
    os.makedirs(box.root / deep)
    assert box.start(variables={"EDGEMESH_UNPACK": f"/{deep}"}).at.parent == Path("/tmp")


def test_another_user_has_a_tree_of_its_own(box, another_user):
    ours, theirs = box.start().at, box.start(user=NOBODY).at
    assert ours.name.startswith("edgemesh-0-") and theirs.name == ours.name.replace("-0-", f"-{NOBODY}-")
    assert box.seen(theirs).stat().st_uid == NOBODY and box.trees() == sorted([ours.name, theirs.name])


# boxes that are short of something

READ_ONLY = 'mount --bind . .; cd "$0"; mount -o remount,ro,bind .'


def test_a_read_only_root_with_one_place_in_memory(box):
    assert box.start(mounts=f"{READ_ONLY}; mount -t tmpfs none tmp").at.parent == Path("/tmp")
    assert box.trees() == []


def test_a_tree_on_a_read_only_root_is_used_where_it_is(box):
    at = box.start().at
    assert box.start(mounts=READ_ONLY).at == at


def test_where_nothing_may_be_executed_nothing_is_laid_out(tmp_path, workshop, bundle, kind):
    box = Box(tmp_path / "box", workshop, bundle(kind), ("run", "tmp"))
    assert box.start(mounts="mount -t tmpfs -o noexec none tmp").at.parent == Path("/run")
    assert box.start(mounts="mount -t tmpfs -o noexec none run").at.parent == Path("/tmp")
    refused = box.start(mounts="mount -t tmpfs -o noexec none run; mount -t tmpfs -o noexec none tmp").refused
    assert (
        "/run: it is mounted noexec" in refused
        and "/tmp: it is mounted noexec" in refused
        and "EDGEMESH_UNPACK" in refused
    )


@pytest.mark.parametrize("limit", ["size=300k", "nr_inodes=4"])
def test_a_full_directory_is_left_as_it_was(tmp_path, workshop, bundle, kind, limit):
    box = Box(tmp_path / "box", workshop, bundle(kind), ("run", "tmp"))
    told = box.start(mounts=f"mount -t tmpfs -o mode=755,{limit} none run", after='echo "left $(ls -A run)"')
    assert told.at.parent == Path("/tmp") and told.each("left") == [""]


def test_without_proc(tmp_path, workshop, bundle):
    box = Box(tmp_path / "box", workshop, bundle("plain"))
    assert "there is no /proc" in box.start("version", proc=False).refused and box.trees() == []


def test_closed_descriptors_are_not_given_to_files(box):
    (box.root / "srv").mkdir()
    told = box.start(closed=True, variables={"OUT": "/srv/out"})
    assert told.code == 0 and told.out == ""
    lines = Told(0, (box.root / "srv/out").read_text(), "").each("descriptor")
    assert [line for line in lines if int(line.split()[0]) < 3] == ["0 device", "1 device", "2 device"]


# starts that meet, and starts that are killed


def test_starts_at_once_agree(box):
    told = box.start_at_once(8)
    assert len({one.at for one in told}) == 1 and box.trees() == [told[0].at.name]


def test_starts_at_once_over_a_damaged_tree_agree(box):
    at = box.start().at
    alter(box.seen(at) / "data.bin", 5)
    assert {one.at for one in box.start_at_once(8)} == {at} and box.trees() == [at.name]


@pytest.mark.parametrize("most", [1, 4096, 299_999, 650_000])
def test_what_a_killed_start_left_half_done_is_removed_by_the_next(box, most):
    """The kernel kills it, as by kill -9, at the byte that we name (SIGXFSZ)."""
    killed = box.start(most=most)
    assert killed.code == -signal.SIGXFSZ, killed.err
    (left,) = box.trees()
    assert ".new-" in left
    at = box.start().at
    assert box.trees() == [at.name]


def test_trees_of_other_versions_go_when_nobody_runs_them(box, bundle, kind):
    (box.root / "tmp/edgemesh-0-0123456789abcdef-3").mkdir(mode=0o700)  # of a second name
    second, third = (box.install(bundle(kind, seed), f"edgemesh-{seed}") for seed in (2, 3))
    with subprocess.Popen(box.command("hold"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as old:
        at = Path(next(line for line in old.stdout if line.startswith("word /tmp")).split()[1]).parent
        other = box.start(program=second).at
        assert box.trees() == sorted([at.name, other.name])  # one of them runs
        old.stdin.close()
        old.stdout.read()
    assert old.returncode == 0
    last = box.start(program=third).at
    assert box.trees() == [last.name]


def test_what_others_named_alike_stays(box):
    for name in (
        "edgemesh-0-notes",
        "edgemesh-1-0123456789abcdef",
        "edgemesh-0-0123456789abcdef0",
        "edgemesh-0-0123456789abcdef-9",
        "edgemesh-bench-x",
    ):
        (box.root / "tmp" / name).mkdir(mode=0o700)
    before = box.trees()
    at = box.start().at
    assert box.trees() == sorted([*before, at.name])


# what is told to the program


def test_the_lock_is_the_only_descriptor_that_is_inherited(box):
    assert [line for line in box.start().each("descriptor") if int(line.split()[0]) > 2] == ["200 directory"]


def test_what_the_box_tells_its_own_loader_is_not_passed_on(box, kind):
    given = {"LANG": "xx_XX.UTF-8", "LC_ALL": "xx_XX", "EDGEMESH_EXE": "/opt/evil", "EDGEMESH_NODE": "kept"}
    given |= {"PYTHONINSPECT": "1", "PYTHONHOME": "/opt"}
    if kind == "plain":  # the sanitized one is not static, and would heed them itself
        given |= {
            "LD_PRELOAD": "/opt/evil.so",
            "LD_LIBRARY_PATH": "/opt",
            "LD_AUDIT": "/opt/evil.so",
            "LD_TRACE_LOADED_OBJECTS": "1",
        }
        given |= {"LD_BIND_NOW": "1", "GLIBC_TUNABLES": "glibc.malloc.check=3", "GCONV_PATH": "/opt", "LOCPATH": "/opt"}
    expected = {"LANG": "xx_XX.UTF-8", "LC_ALL": "C", "EDGEMESH_EXE": "/opt/edgemesh", "EDGEMESH_NODE": "kept"}
    expected |= {"CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"}
    assert sorted(box.start(variables=given).each("variable")) == sorted(
        f"{name}={value}" for name, value in expected.items()
    )


def test_the_umask_is_the_one_that_was_given(box):
    assert box.start(mounts="umask 0027").each("umask") == ["0027"]


def test_it_does_not_run_with_rights_that_its_caller_lacks(box, another_user):
    for mode in (0o4755, 0o2755):
        (box.root / "opt/edgemesh").chmod(mode)
        assert "setuid" in box.start(user=NOBODY).refused
    assert box.trees() == []


# a file that is damaged


def damaged(box, data):
    (box.root / "opt/edgemesh").write_bytes(data)
    refused = box.start().refused
    assert "this file is damaged" in refused and refused.count("\n") == 1
    assert box.trees() == []
    return refused


def test_a_file_that_was_not_copied_whole(box):
    size, whole = len(Parts(box.file).launcher), box.file.read_bytes()
    for kept in (size, size + 1, size + 56, (size + len(whole)) // 2, len(whole) - 1):
        assert "was it copied whole?" in damaged(box, whole[:kept])


def test_a_byte_of_the_index(box):
    parts = Parts(box.file)
    for at in (0, 4, 20, 50, len(parts.index) - 1):
        index = bytearray(parts.index)
        index[at] ^= 0x40
        assert "its index was altered" in damaged(box, parts.launcher + parts.frame + index + parts.trailer)


def test_a_byte_of_the_frame(box):
    parts = Parts(box.file)
    for at in (0, 5, 100, len(parts.frame) // 2, len(parts.frame) - 10):
        frame = bytearray(parts.frame)
        frame[at] ^= 0x40
        assert "its contents cannot be unpacked" in damaged(box, parts.launcher + frame + parts.index + parts.trailer)


def test_a_byte_of_the_trailer(box):
    parts = Parts(box.file)
    for at in range(len(parts.trailer)):
        trailer = bytearray(parts.trailer)
        trailer[at] ^= 0x80
        damaged(box, parts.launcher + parts.frame + parts.index + trailer)


def test_sizes_that_lead_outside_the_file(box):
    parts = Parts(box.file)
    edges = (0, 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64 - len(parts.index), box.file.stat().st_size)
    for frame in (*edges, len(parts.frame)):
        for index in edges:
            end = struct.pack("<QQ32s8s", frame, index, pack.digest(parts.index), pack.MAGIC)
            damaged(box, parts.launcher + parts.frame + parts.index + end)


NAMES = ["../evil", "/evil", "a/../evil", "a//evil", ".", "..", "a/.", "./a", "a/", "/", "a\0evil", "x" * 1025]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:10]))
def test_names_that_lead_elsewhere(box, name):
    parts = Parts(box.file)
    data = pack.assemble(parts.launcher, parts.frame, parts.index + pack.entry(name, b""))
    assert "a name in its index" in damaged(box, data)


def test_an_index_that_says_what_cannot_be(box):
    parts = Parts(box.file)

    def entry(size=1, mode=0o600, name_size=1):
        return pack.ENTRY.pack(name_size, mode, size, bytes(32)) + b"a"

    for extra, why in (
        (entry(mode=0o4755), "a mode"),
        (entry(name_size=0), "a name"),
        (entry(name_size=2), "a name"),
        (entry(name_size=2**32 - 1), "a name"),
        (entry()[:20], "ends early"),
        (entry(size=2**63), "contents"),
        (entry(size=2**64 - 1), "contents"),
        (entry(size=0), "contents"),
    ):
        assert why in damaged(box, pack.assemble(parts.launcher, parts.frame, parts.index + extra))
    # The same name twice, or a file where a directory is to be: nothing is executed, nothing stays.
    for name in ("app", "lib", "app/x"):
        (box.root / "opt/edgemesh").write_bytes(
            pack.assemble(parts.launcher, parts.frame, parts.index + pack.entry(name, b""))
        )
        assert "no directory to unpack to" in box.start().refused and box.trees() == []


def test_a_frame_that_wants_more_memory_than_boxes_have(box):
    parts, data = Parts(box.file), bytes(1 << 20)
    frame = subprocess.run(
        ["zstd", "-q", "-19", "--ultra", "--long=27", "-c"], input=data, capture_output=True, check=True
    ).stdout
    assert "contents cannot be unpacked" in damaged(
        box, pack.assemble(parts.launcher, frame, pack.entry("edgemesh", data))
    )


def test_an_index_with_nothing_to_execute(box):
    parts = Parts(box.file)
    (box.root / "opt/edgemesh").write_bytes(pack.assemble(parts.launcher, parts.frame, b""))
    assert "No such file" in box.start().refused


def test_mutated_ends(tmp_path, workshop, bundle):
    """With right digests, so that all that reads an index is reached. Any clean end will do, and nothing is ever written outside."""
    box = Box(tmp_path / "box", workshop, bundle("sanitized"))
    parts = Parts(box.file)
    chance = random.Random(20261129)
    before = sorted(path.name for path in box.root.iterdir())
    numbers = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\4\0\0", b"\1\4\0\0", b"/../", b"\0\0\0\x80"]
    for _ in range(150):
        index = bytearray(parts.index)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(index))
            match chance.randrange(4):
                case 0:
                    index[at] ^= 1 << chance.randrange(8)
                case 1:
                    del index[at + 1 : at + chance.randint(2, 60)]
                case 2:
                    index[at:at] = index[: chance.randint(1, 60)]
                case 3:
                    index[at : at + 4] = chance.choice(numbers)
        data = bytearray(pack.assemble(parts.launcher, parts.frame, bytes(index)))
        if chance.randrange(4) == 0:
            data[chance.randrange(16) - pack.TRAILER.size] ^= 1 << chance.randrange(8)
        (box.root / "opt/edgemesh").write_bytes(data)
        told = box.start()
        assert told.code == 0 or (told.code == 126 and told.err.startswith("edgemesh: ")), (told.code, told.err)
        assert sorted(path.name for path in box.root.iterdir()) == before
