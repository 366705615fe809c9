"""user_filters.py: which files are run, and what a filter may return; over sockets: journeys/test_user_filters.py."""

import pytest

from nodeproxy.user_filters import Head, UserFilter, UserFilters, load

GOOD = "class Mine:\n    def request(self, head):\n        return None\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "filters"
    folder.mkdir(mode=0o755)
    (folder / "mine.py").write_text(GOOD)
    (folder / "mine.py").chmod(0o644)
    return folder


def one(module="mine", name="Mine"):
    return UserFilter("f", module, name)


def test_a_file_that_only_root_can_write_is_run(folder):
    assert load(str(folder), one()).request(None) is None


def test_what_others_can_write_is_not_run(folder):
    (folder / "mine.py").chmod(0o666)
    with pytest.raises(ValueError, match="can be written by others than root"):
        load(str(folder), one())
    (folder / "mine.py").chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(ValueError, match="can be written by others than root"):
        load(str(folder), one())


def test_what_is_no_file_of_the_folder_is_not_run(folder, tmp_path):
    (tmp_path / "far.py").write_text(GOOD)
    (folder / "link.py").symlink_to(tmp_path / "far.py")
    (folder / "folder.py").mkdir()
    for module in ("../far", "link", "none"):
        with pytest.raises((ValueError, OSError)):
            load(str(folder), one(module))
    with pytest.raises((ValueError, OSError)):
        load(str(folder), one("folder"))
    with pytest.raises(ValueError, match="names no folder"):
        load("", one())


def test_a_module_that_is_not_here_is_named_in_plain_words(folder):
    (folder / "mine.py").write_text("import no_such_module\n")
    with pytest.raises(ValueError, match=r"imports what is not here.*no_such_module.*edgemesh itself uses"):
        load(str(folder), one())
    (folder / "mine.py").write_text(GOOD)
    with pytest.raises(ValueError, match="has no class Other"):
        load(str(folder), one(name="Other"))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("None", None),
        ("403", (403, b"")),
        ("(200, 'text')", (200, b"text")),
        ("(200, b'bytes')", (200, b"bytes")),
        ("True", ValueError),
        ("100", ValueError),
        ("'text'", ValueError),
        ("(200, 1)", ValueError),
        ("(200, 'a' * 70000)", ValueError),
        ("(1, 2, 3)", ValueError),
    ],
)
async def test_what_it_may_return(folder, said, answer):
    (folder / "mine.py").write_text(GOOD.replace("None", said))
    filters = UserFilters((UserFilter("f", "mine", "Mine", timeout=10),), str(folder))
    found = filters.get("f")
    head = Head("GET", "/", "a", "", [])
    if answer is ValueError:
        with pytest.raises(ValueError, match="it returned"):
            await filters.run(found, head)
    else:
        assert await filters.run(found, head) == answer


def test_a_head_notes_what_is_asked_of_it():
    head = Head("GET", "/", "a", "", [("x-a", "1"), ("x-a", "2")])
    assert (head.get("X-A"), head.get("x-b")) == ("1, 2", "")
    head.set("X-A", "3")
    head.add("x-b", "4")
    head.remove("X-C")
    assert head.changes == [("set", "x-a", "3"), ("add", "x-b", "4"), ("remove", "x-c", "")]
    assert head.fields == [("x-a", "1"), ("x-a", "2")]
