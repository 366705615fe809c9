"""The nine steps of the bookstore as data: the files of the watched folder, and what each counter must then do."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

# rises: grows. frozen: does not, although its owner keeps trying. half: grows, with about half of all sales. absent:
# not deployed.
Expectation = Literal["rises", "frozen", "half", "absent"]


class Step(Struct, frozen=True):
    title: str
    files: dict[str, str]  # name in the watched folder -> file of manifests/
    bookbuyer: Expectation
    bookthief: Expectation
    bookstore_v1: Expectation
    bookstore_v2: Expectation = "absent"

    @property
    def permissive(self) -> bool:
        return self.files["mesh.yaml"] == "mesh-permissive.yaml"

    @property
    def has_v2(self) -> bool:
        return self.bookstore_v2 != "absent"

    @property
    def expectations(self) -> dict[str, Expectation]:
        """Return expectations by the name of the counter's owner, in the order of the table."""
        return {
            "bookbuyer": self.bookbuyer,
            "bookthief": self.bookthief,
            "bookstore-v1": self.bookstore_v1,
            "bookstore-v2": self.bookstore_v2,
        }


# One file name for each object, so that a step which changes an object edits its file, as a person would.
_PERMISSIVE = {"services.yaml": "services.yaml", "mesh.yaml": "mesh-permissive.yaml"}
_DENY = {"services.yaml": "services.yaml", "mesh.yaml": "mesh-smi.yaml"}
_ACCESS = _DENY | {"routes-and-warehouse.yaml": "routes-and-warehouse.yaml", "access.yaml": "access-v1.yaml"}
_V2 = _ACCESS | {"bookstore-v2.yaml": "bookstore-v2.yaml"}

STEPS = (
    Step("permissive mode: everybody may", _PERMISSIVE, "rises", "rises", "rises"),
    Step("permissive mode off, no policy: nobody may", _DENY, "frozen", "frozen", "frozen"),
    Step("apply traffic-access-v1: the buyer may", _ACCESS, "rises", "frozen", "rises"),
    Step("allow bookthief", _ACCESS | {"access.yaml": "access-with-bookthief.yaml"}, "rises", "rises", "rises"),
    Step("back to traffic-access-v1", _ACCESS, "rises", "frozen", "rises"),
    Step("deploy bookstore-v2 with its own target", _V2, "rises", "frozen", "rises", "rises"),
    Step("split: everything to v1", _V2 | {"split.yaml": "split-100-0.yaml"}, "rises", "frozen", "rises", "frozen"),
    Step("split: half and half", _V2 | {"split.yaml": "split-50-50.yaml"}, "rises", "frozen", "half", "half"),
    Step("split: everything to v2", _V2 | {"split.yaml": "split-0-100.yaml"}, "rises", "frozen", "frozen", "rises"),
)
# The step that only two nodes have, after the others: bookbuyer and bookstore-v1 are on different ones.
OUTAGE = structs.replace(STEPS[6], title="the link between the nodes goes down, and up again")
