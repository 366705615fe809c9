"""edgemesh ca: what it does, what it says, and what it says when it does not."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import main
from agent.identity import csr
from agent.identity.authority.authority import Authority
from agent.identity.protocol import JoinRequest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `edgemesh ca ...` in a state directory of its own: exit code, standard output, standard error."""

    def ca(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["ca", *words, "--state", str(tmp_path / "state")])
        except SystemExit as stop:
            code = int(str(stop.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return ca


@pytest.fixture
def authority(run: Run, tmp_path: Path) -> Authority:
    """The daemon's, beside the commands."""
    assert run("init")[0] == 0
    return Authority(
        tmp_path / "state" / "authority", time.time, 3600, lambda node, spiffe: "", lambda node, identity, serial: ""
    )


def enrol(run: Run, authority: Authority, node: str) -> None:
    token = run("token", "--node", node)[1].strip()
    authority.join(JoinRequest(node, token, csr.request(csr.new_key(), "x")))


def test_init_says_where_and_what_next(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("init", "--trust-domain", "shop.example")
    assert code == 0
    assert out.startswith(f"authority of shop.example made in {tmp_path}/state/authority\nroot ")
    assert "edgemesh ca token --node NAME" in out
    code, _, err = run("init")
    assert (code, "holds an authority already" in err) == (1, True)


def test_for_programs(run: Run, tmp_path: Path) -> None:
    made = json.loads(run("init", "-o", "json")[1])
    assert made == json.loads(run("show", "-o", "json")[1])
    token = json.loads(run("token", "--node", "a", "--ttl", "30m", "-o", "json")[1])
    assert (token["node"], token["good_seconds"], len(token["token"])) == ("a", 1800, 108)
    assert json.loads(run("rotate", "add", "-o", "json")[1])["rotation"]["step"] == "added"
    assert json.loads(run("rotate", "-o", "json")[1])["blocking"] == []
    site = json.loads(run("intermediate", "--node", "b", "--out", str(tmp_path / "out"), "-o", "json")[1])
    assert (site["node"], site["certificates"]) == ("b", str(tmp_path / "out/site.crt"))
    other = tmp_path / "other"
    code = main(["ca", "load", site["certificates"], site["key"], "--state", str(other), "-o", "json"])
    assert code == 0


@pytest.mark.parametrize(
    "words", [["show"], ["token", "--node", "a"], ["rotate"], ["intermediate", "--node", "a", "--out", "/nowhere/x"]]
)
def test_without_an_authority(words: list[str], run: Run, tmp_path: Path) -> None:
    words = [str(tmp_path / "out") if word == "/nowhere/x" else word for word in words]
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert (
        err
        == f"edgemesh: there is no authority in {tmp_path}/state/authority\n  edgemesh ca init makes one; --state names another state directory\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shwo"], "invalid choice: 'shwo'"),
        (["token"], "required: --node"),
        (["token", "--node", "a/b"], "'a/b' is no name of a node"),
        (["token", "--node", "a", "--ttl", "1y"], "'1y' is no time such as 30m"),
        (["token", "--node", "a", "--ttl", "5s"], "from 10s to 30d"),
        (["intermediate", "--node", "a", "--out", "x", "--days", "0"], "'0' is no number of days"),
        (["rotate", "forward"], "invalid choice: 'forward'"),
        (["init", "--trust-domain", "Shop"], "'Shop' is no trust domain"),
    ],
)
def test_lines_that_make_no_sense(words: list[str], said: str, run: Run) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert said in err


def test_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ca"]) == 2
    assert capsys.readouterr().err.startswith("edgemesh: which of init, show, token, intermediate, load, rotate?\n")


def test_a_clock_that_was_never_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 100.0)
    code, _, err = run("init")
    assert (code, "clock says 1970-01-01" in err) == (1, True)


def test_a_token_goes_to_standard_output_alone(run: Run, authority: Authority) -> None:
    code, out, err = run("token", "--node", "till-3", "--ttl", "90m")
    assert code == 0
    secret, _, root = out.removesuffix("\n").partition(".")
    assert len(secret) == 43
    assert root == authority.bundle().issuer
    assert "once, within 90 min" in err
    assert "edgemesh join --node till-3 --authority HOST:PORT" in err
    assert secret not in err
    authority.join(JoinRequest("till-3", out.strip(), csr.request(csr.new_key(), "x")))


def test_show(run: Run, authority: Authority, tmp_path: Path) -> None:
    enrol(run, authority, "till-3")
    run("token", "--node", "till-4")
    code, out, _ = run("show")
    assert code == 0
    assert authority.bundle().issuer in out
    assert "token outstanding for till-4" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("till-3 ")]
    assert (row[2], row[-1]) == ("1", "yes")
    (tmp_path / "state" / "authority" / "ledger.jsonl").write_text("nonsense\n")
    assert "warning: the ledger was damaged" in run("show")[1]
    document = json.loads(run("show", "-o", "json")[1])
    assert document["tokens"][0]["node"] == "till-4"
    assert document["nodes"] == []


def test_show_warns_before_the_root_ends(run: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 3600 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert "warning: the issuing certificate ends on" in run("show")[1]


def test_a_rotation(run: Run, authority: Authority) -> None:
    enrol(run, authority, "till-3")
    assert "next: edgemesh ca rotate add" in run("rotate")[1]
    code, _, err = run("rotate", "issue")
    assert (code, "edgemesh ca rotate add begins one" in err) == (1, True)
    code, out, _ = run("rotate", "add")
    assert (code, "it waits for:\n  node till-3\n" in out) == (0, True)
    code, _, err = run("rotate", "issue")
    assert (code, "node till-3" in err, "--force" in err) == (1, True, True)
    authority.bundle("till-3")
    assert "next: edgemesh ca rotate issue" in run("rotate")[1]
    assert run("rotate", "issue")[0] == 0
    assert run("rotate", "retire")[0] == 1
    assert run("rotate", "retire", "--force")[0] == 0
    assert "believes the old root again" in run("rotate")[1]
    assert run("rotate", "undo")[0] == 0
    assert len(authority.bundle().roots) == 2


def test_a_site(run: Run, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o755)
    assert run("intermediate", "--node", "north", "--out", str(out))[0] == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o755  # it is not ours to change
    assert stat.S_IMODE((out / "site.key").stat().st_mode) == 0o600
    code, _, err = run("intermediate", "--node", "north", "--out", str(out))
    assert (code, "already" in err) == (1, True)
    assert "site authority of north" in run("show")[1]
    there = ["--state", str(tmp_path / "north")]
    assert main(["ca", "load", str(out / "site.crt"), str(out / "site.key"), *there]) == 0
    assert main(["ca", "load", str(out / "site.crt"), str(out / "site.key"), *there]) == 1
    assert "this is the issuer already" in capsys.readouterr().err
    assert (
        main(["ca", "load", str(out / "site.crt"), str(out / "site.key"), "--trust-domain", "b.example", *there]) == 1
    )
    assert "is of cluster.local, not of b.example" in capsys.readouterr().err
    key = csr.new_key()
    site = Authority(tmp_path / "north" / "authority", time.time, 3600, lambda *_: "", lambda *_: "")
    assert main(["ca", "token", "--node", "n1", *there]) == 0
    issued = site.join(JoinRequest("n1", capsys.readouterr().out.strip(), csr.request(key, "x")))
    csr.check(issued.chain, key, "spiffe://cluster.local/node/n1", authority.bundle().roots[0], time.time())


def test_load_names_the_file_that_is_wrong(run: Run, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for words, said in (
        (["load", "/nowhere/x", "/nowhere/y"], "/nowhere/x cannot be read: No such file"),
        (
            ["load", str(tmp_path / "x"), str(tmp_path / "x")],
            "x cannot sign for cluster.local: there is no readable certificate (PEM)",
        ),
        (["load", str(tmp_path / "x"), str(tmp_path / "x"), "--trust-domain", "b.example"], "not of b.example"),
    ):
        code, _, err = run(*words)
        assert (code, said in err) == (1, True), err
