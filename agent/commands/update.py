"""update: take up a signed bundle, from a path or a URL, without a dropped connection; show history; roll back."""

from __future__ import annotations

import platform
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import NoReturn

from agent.admin import client
from agent.commands import NO, OK, USAGE, options, terminal
from agent.config.schema import SOCKET
from agent.config.settings import environment
from agent.ota.bundle import HEAD as BUNDLE_HEAD
from agent.ota.bundle import BundleError, Manifest, find, read_head, read_manifest, whole_size
from agent.ota.fetch import FetchError, fetch, forget
from agent.ota.keys import Keys, TrustedKeys, TrustError
from agent.ota.releases import AlteredError, ReleaseError, Releases

STATE = "/var/lib/edgemesh"
_FAMILIES = {"x86_64": "x86_64", "aarch64": "aarch64", "riscv64": "riscv64", "loongarch64": "loong64"}
_RESTART = 15.0  # seconds for a killed daemon to run again
_WAIT = 600.0  # seconds for the daemon to hand over; its own deadline comes first


class _Refused(Exception):  # noqa: N818
    """The update ends here; nothing has changed."""


def arguments(parser: ArgumentParser) -> None:
    parser.usage = "edgemesh update BUNDLE | URL | status | history | rollback | trust KEY..."
    words = "a signed bundle, a file or a URL; or one of the words above"
    parser.add_argument("words", metavar="BUNDLE", nargs="+", help=words)
    downgrade = "take this version although it is older than what ran here"
    parser.add_argument("--downgrade", metavar="VERSION", default="", help=downgrade)
    rate = "fetch no faster: 20k, 1M a second (default: as it comes)"
    parser.add_argument("--rate", metavar="BYTES", type=_rate, default=0, help=rate)
    options.state(parser)
    options.socket(parser)
    options.output(parser)


def run(arguments: Namespace) -> int:
    """Return 1 when it was refused; nothing has changed then."""
    words: list[str] = arguments.words
    state = Path(arguments.state or STATE)
    readers = {"status": _status, "history": _history}
    verbs = {"rollback": _rollback, "trust": _trust}
    try:
        if words[0] in readers:
            return readers[words[0]](state, words[1:], arguments)
        if words[0] in verbs:
            with Releases(state).alone():
                return verbs[words[0]](state, words[1:], arguments)
        if len(words) != 1:
            print("edgemesh update: one bundle at a time", file=sys.stderr)
            return USAGE
        with Releases(state).alone():
            return _update(state, words[0], arguments)
    except (_Refused, BundleError, TrustError, FetchError, ReleaseError) as error:
        print(f"edgemesh: {error}", file=sys.stderr)
        return NO
    except OSError as error:
        print(f"edgemesh: {error.filename or state}: {error.strerror}", file=sys.stderr)
        return NO


def _rate(word: str) -> int:
    number, unit = (word[:-1], word[-1]) if word[-1:] in ("k", "M") else (word, "")
    if not number.isascii() or not number.isdigit() or not int(number):
        raise ArgumentTypeError(f"{word!r} is no number of bytes a second: 50000, 20k, 1M")
    return int(number) * {"": 1, "k": 1024, "M": 1 << 20}[unit]


def family(machine: str = "") -> str:
    """Return the name of this CPU's family in bundles and our files. Raise BundleError."""
    machine = machine or platform.machine()
    if machine not in _FAMILIES:
        raise BundleError(f"edgemesh is not built for this CPU ({machine})")
    return _FAMILIES[machine]


def _update(state: Path, source: str, arguments: Namespace) -> int:
    releases, trust = Releases(state), TrustedKeys(state)
    running = _running(releases)
    if running is not None:
        trust.came_to(running)  # the command that took it up may have been killed before it recorded that
    keys = trust.keys().keys
    if not keys:
        raise _Refused("this box trusts no key yet, and so no bundle; edgemesh update trust KEY")
    got = fetch(source, trust.folder, arguments.rate, _progress if sys.stderr.isatty() else lambda done, whole: None)
    if (got.received or got.resumed) and arguments.output != "json":
        print(f"{got.received} bytes received{f', after {got.resumed} before' if got.resumed else ''}")
    with got.path.open("rb") as bundle:
        try:
            data = bundle.read(BUNDLE_HEAD)
            head = read_head(data)
            manifest = read_manifest(data + bundle.read(head.size - len(data)), keys)
            if (size := got.path.stat().st_size) != whole_size(manifest, head):
                raise BundleError(
                    f"it is cut off, or something was added: {size} bytes instead of {whole_size(manifest, head)}"
                )
        except BundleError:
            if "://" in source:
                forget(trust.folder)  # the same bytes would fail again
            raise
        file, at = find(manifest, head, family())
        # A manifest that can no longer be read must not make updates impossible.
        trust.admit(manifest, running.epoch if running else trust.epoch(), arguments.downgrade)
        if running is not None and manifest.epoch < running.rollback:
            raise BundleError(
                f"edgemesh {running.version} wrote what releases before epoch {running.rollback} cannot read"
            )
        bundle.seek(at)
        try:
            name = releases.stage(bundle, file, manifest)
        except AlteredError:
            if "://" in source:
                forget(trust.folder)
            raise
    if name == releases.current():
        _say(arguments, manifest, "current", f"edgemesh {manifest.version} runs here already")
    else:
        _take_up(releases, name, manifest, "update", arguments)
    trust.came_to(manifest)
    forget(trust.folder)
    releases.prune()
    return OK


def _take_up(releases: Releases, name: str, manifest: Manifest, what: str, arguments: Namespace) -> None:
    """Have the daemon hand over; where none runs, the next start runs the release."""
    releases.command(name)
    try:
        _ask(arguments.socket or environment().socket or SOCKET, name)
    except client.NotRunning:
        releases.switch(name)
        releases.record(what, manifest.version, "installed; no daemon ran")
        words = f"edgemesh {manifest.version} is installed; no daemon runs that could take it up, so it has not proved well yet"
        _say(arguments, manifest, "installed", words)
        return
    except (client.Answered, client.Unreachable) as error:
        releases.record(what, manifest.version, f"failed: {error}")
        raise _Refused(f"{error}\n  {getattr(error, 'hint', '')}".rstrip()) from error
    releases.record(what, manifest.version, "took over")
    _say(arguments, manifest, "runs", f"edgemesh {manifest.version} runs")


def _say(arguments: Namespace, manifest: Manifest, outcome: str, words: str) -> None:
    if arguments.output == "json":
        terminal.print_json({"version": manifest.version, "epoch": manifest.epoch, "outcome": outcome})
    else:
        print(words)


def _ask(socket: str, name: str) -> None:
    """Ask the daemon to take the release up. Raise what client.post does.

    A killed daemon leaves its socket, and is started again in a moment. That new one is to take the release up, and
    check that it is healthy, before the release is installed.
    """
    until = time.monotonic() + _RESTART
    while True:
        try:
            client.post(socket, "/update", [("release", name)], _WAIT)
            return
        except client.NotRunning:
            if not Path(socket).exists() or time.monotonic() >= until:
                raise
            time.sleep(0.2)


def _running(releases: Releases) -> Manifest | None:
    name = releases.current()
    return releases.manifest(name) if name else None


def _progress(done: int, whole: int) -> None:
    print(
        f"\r{done >> 10} KiB{f' of {whole >> 10}' if whole else ''}",
        end="" if done != whole else "\n",
        file=sys.stderr,
        flush=True,
    )


def _status(state: Path, words: list[str], arguments: Namespace) -> int:
    _none(words)
    releases, trust = Releases(state), TrustedKeys(state)
    current, previous = releases.current(), releases.previous()
    if arguments.output == "json":
        keys = [key.hex() for key in trust.keys().keys]
        terminal.print_json(
            {"installed": current or None, "before": previous or None, "epoch": trust.epoch(), "keys": keys}
        )
        return OK
    print(f"installed  {current or 'not by a bundle, nor by edgemesh setup'}")
    print(f"before     {previous if previous and previous != current else '-'}")
    print(f"epoch      {trust.epoch()}")
    found = trust.keys()
    print(
        f"keys       {', '.join(key.hex()[:16] for key in found.keys) or 'none: no bundle is taken (edgemesh update trust KEY)'}"
    )
    return OK


def _history(state: Path, words: list[str], arguments: Namespace) -> int:
    _none(words)
    if arguments.output == "json":
        terminal.print_json(list(Releases(state).history()))
        return OK
    for line in Releases(state).history():
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.get("time", 0)))
        print(f"{when}  {line.get('what', ''):<9} {line.get('version', ''):<12} {line.get('outcome', '')}")
    return OK


def _rollback(state: Path, words: list[str], arguments: Namespace) -> int:
    """Go back to the release before; by name, so that its epoch may be smaller."""
    _none(words)
    releases = Releases(state)
    name, running = releases.previous(), _running(releases)
    manifest = releases.manifest(name) if name and name != releases.current() else None
    if manifest is None:
        raise _Refused("there is no release before this one here")
    if running is not None and manifest.epoch < running.rollback:
        raise _Refused(f"edgemesh {running.version} wrote what releases before epoch {running.rollback} cannot read")
    _take_up(releases, name, manifest, "rollback", arguments)
    return OK


def _trust(state: Path, words: list[str], arguments: Namespace) -> int:
    """Trust the keys of a file, in place of all before. Only root of this machine can."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if not words:
        raise _Refused("which key? edgemesh update trust FILE... (PEM, as edgemesh-bundle key wrote it)")
    keys = []
    for word in words:
        try:
            key = load_pem_public_key(Path(word).read_bytes())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _Refused(f"{word}: this is no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise _Refused(f"{word}: this is no Ed25519 key")
        keys.append(key.public_bytes_raw())
    trust, running = TrustedKeys(state), _running(Releases(state))
    # The new list must not be older than any list before: that one would take precedence.
    try:
        serial = trust.keys().serial
    except TrustError:
        serial = 0  # the list cannot be read, and this command repairs it
    serial = max(serial, running.key_serial if running else 0)
    trust.write(Keys(serial, tuple(keys)))
    if arguments.output == "json":
        terminal.print_json({"serial": serial, "keys": [key.hex() for key in keys]})
    else:
        print(f"bundles are taken that one of these signed: {', '.join(key.hex()[:16] for key in keys)}")
    return OK


def _none(words: list[str]) -> None:
    if words:
        _too_many(words)


def _too_many(words: list[str]) -> NoReturn:
    raise _Refused(f"{' '.join(words)}: there is nothing to add")
