"""The keys that this box trusts, and the greatest epoch that ran: two small files, each replaced whole or not at all.

`update/keys`: the number of the list, and raw public keys in hexadecimal, one a line. `update/epoch`: the greatest
epoch that ran here. A bundle with a smaller epoch may be an old bundle with an old hole, which an attacker replays; it
is refused unless a person asks for it by its version.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from agent.ota.bundle import BundleError, Manifest
from agent.system import state_files
from agent.system.files import make_directory, replace_file

FOLDER = "update"
_MOST = 1 << 20  # bytes of either file at most


class TrustError(Exception):
    """The keys or the epoch cannot be read or written; the message names the file and what to do."""


class Keys(Struct, frozen=True):
    serial: int = 0
    keys: tuple[bytes, ...] = ()  # raw public keys


def _lines(path: Path) -> str:
    """Return the text of a file that ends with a newline. Raise OSError, ValueError."""
    text = state_files.read(path, _MOST).decode("ascii")
    if not text.endswith("\n"):
        raise ValueError("its end is missing")  # a number that was cut off would be a smaller one
    return text


class TrustedKeys:
    """The files in STATE/update."""

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    def keys(self) -> Keys:
        """Return the trusted keys; none where there is no file. Raise TrustError."""
        path = self.folder / "keys"
        try:
            first, *lines = _lines(path).split()
            found = Keys(int(first), tuple(bytes.fromhex(line) for line in lines))
        except FileNotFoundError:
            return Keys()
        except (OSError, ValueError) as error:
            raise TrustError(f"{path}: {error}; edgemesh update trust writes it anew") from error
        if any(len(key) != 32 for key in found.keys):
            raise TrustError(f"{path}: a line is no key; edgemesh update trust writes it anew")
        return found

    def write(self, keys: Keys) -> None:
        """Replace the list of trusted keys. Raise OSError."""
        make_directory(self.folder, 0o700)
        lines = (keys.serial, *(key.hex() for key in keys.keys))
        replace_file(self.folder / "keys", "".join(f"{line}\n" for line in lines).encode(), 0o644)

    def epoch(self) -> int:
        """Return the greatest epoch that ran. Raise TrustError: an unreadable epoch must not pass for none."""
        path = self.folder / "epoch"
        try:
            return int(_lines(path))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise TrustError(f"{path}: {error}; write the number of the release that runs into it") from error

    def came_to(self, manifest: Manifest) -> None:
        """Record the epoch of a release that has reported healthy, and its list of keys when that is newer.

        Raise OSError, TrustError.
        """
        make_directory(self.folder, 0o700)
        if manifest.epoch > self.epoch():
            replace_file(self.folder / "epoch", f"{manifest.epoch}\n".encode(), 0o644)
        if manifest.keys and manifest.key_serial > self.keys().serial:
            self.write(Keys(manifest.key_serial, tuple(map(bytes.fromhex, manifest.keys))))

    def admit(self, manifest: Manifest, running: int, by_name: str = "") -> None:
        """Check that this box may change to the release of `manifest`. Raise BundleError, TrustError.

        `running`: the epoch that the box runs; `by_name`: the version that a person asked for.
        """
        if manifest.minimum > running:
            raise BundleError(
                f"edgemesh {manifest.version} can be taken from epoch {manifest.minimum} on, and this box runs {running}: take a release between first"
            )
        reached = max(self.epoch(), running)  # the daemon may have been killed before it recorded its epoch
        if manifest.epoch < reached and by_name != manifest.version:
            raise BundleError(
                f"edgemesh {manifest.version} (epoch {manifest.epoch}) is older than what ran here (epoch {reached}); to go back to it, say --downgrade {manifest.version}"
            )
