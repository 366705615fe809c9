"""What h2spec (https://github.com/summerwind/h2spec) finds at the door of a workload, for both HTTP/2 state machines. By hand:

    go install github.com/summerwind/h2spec/cmd/h2spec@latest        # needs Go, which nothing else here does
    PATH=$PATH:~/go/bin python -m tests.journeys.h2spec [python | native]

Prints the cases that fail, and exits 1 if there is one that KNOWN does not say why.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

import h11
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import PORT, Web

_ONE_DOOR = "a door speaks HTTP/1.1 too: what is no preface is a bad request of that, answered 400, and the connection is closed"
_PRIORITY = "RFC 9113 section 5.3 deprecated priorities: PRIORITY frames are counted, and not looked at"
_LATE = (
    "nghttp2 forgets streams that are over (no_closed_streams, for boards with little memory) and ignores what comes for them, as RFC 9113"
    " section 5.1 asks of who has sent RST_STREAM; nobody is served for it, and the frame counts against the peer's budget"
)
_OLD = "nghttp2 ignores a head with the number of a stream that is over: nothing is served for it"
_BOTH = {
    "http2/3.5: Sends invalid connection preface": _ONE_DOOR,
    "http2/5.3.1: Sends PRIORITY frame that depend on itself": _PRIORITY,
}
# machine -> case -> why it stays so
KNOWN: dict[str, dict[str, str]] = {
    "python": _BOTH,
    "native": {
        **_BOTH,
        "http2/6.3: Sends a PRIORITY frame with 0x0 stream identifier": _PRIORITY,
        "http2/5.1: closed: Sends a DATA frame after sending RST_STREAM frame": _LATE,
        "http2/5.1: closed: Sends a HEADERS frame after sending RST_STREAM frame": _LATE,
        "http2/5.1: closed: Sends a DATA frame": _LATE,
        "http2/5.1: closed: Sends a HEADERS frame": _LATE,
        "http2/5.1.1: Sends stream identifier that is numerically smaller than previous": _OLD,
    },
}


class Patient(Web):
    """A caller that has left before it was looked at is no fault here."""

    async def serve(self, stream):
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            await super().serve(stream)


async def cases(native: bool) -> dict[str, str]:
    """The cases that failed, and what was expected and seen."""
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(), native)
        if not native:
            mesh.proxy.context.h2_bounds = type(mesh.proxy.context.h2_bounds)(native=False)
        to = mesh.proxy.context.snapshot.named("bookstore-v1", "bookstore").addresses[0]
        accept.original_destination = lambda sock: (to, PORT)
        await mesh.start()
        web = Patient(nursery, mesh.addresses["store-v1"], PORT, "store-v1")
        web.answers["/books"] = (200, b"x" * 40)
        host, port = mesh.outbound["buyer"]
        with tempfile.NamedTemporaryFile(suffix=".xml") as report:
            command = [
                "h2spec",
                "--strict",
                "-h",
                host,
                "-p",
                str(port),
                "--path",
                "/books",
                "-o",
                "3",
                "-j",
                report.name,
            ]
            await trio.run_process(command, check=False, stdout=subprocess.DEVNULL)
            tree = ElementTree.parse(report.name)
        nursery.cancel_scope.cancel()
    mesh.close()
    found, passed = {}, 0
    for case in tree.iter("testcase"):
        name = f"{case.get('package')}: {case.get('classname')}"
        fault = case.find("failure")
        if fault is None:
            fault = case.find("error")
        if fault is None:
            passed += 1
        else:
            found[name] = re.sub(r"\s+", " ", fault.text or "").strip()
    print(f"{'native' if native else 'python'}: {passed} cases pass, {len(found)} fail")
    return found


def main() -> int:
    unknown = 0
    for which in sys.argv[1:] or (["python", "native"] if AVAILABLE else ["python"]):
        for name, seen in trio.run(cases, which == "native").items():
            why = KNOWN[which].get(name, "")
            unknown += not why
            print(f"  {name}\n    {seen}\n    {why or 'NOT KNOWN'}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
