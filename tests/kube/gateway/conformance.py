"""The Gateway API project's own conformance suite against edgemesh on a cluster of two nodes, in one command.

    make gateway-conformance                               # MESH-HTTP and MESH-GRPC, as for a report to publish
    make gateway-conformance ARGS='MESH-HTTP --strict 25'
    make gateway-conformance ARGS='MESH-HTTP --tests MeshBasic --quick'

A mesh is judged from within pods: a client asks until three answers in a row are right, for half a minute. Where two back ends
take turns by chance, a cluster without any mesh passes some tests so. `--strict 25` asks for 25 answers in a row, which chance
does not give; a run with it is harder than the suite, and is not what one publishes.

EDGEMESH_CLUSTER and EDGEMESH_IMAGE as for the kube ring (tests/kube/README.md).
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent import __version__
from agent.cluster.gateway_status import FEATURES
from policy.gateway import CONTROLLER
from tests.kube.cluster import image
from tests.kube.clusters import PROGRAMS, Cluster, Problem, given, lacking
from tests.kube.meshes import Mesh

MADE = PROGRAMS.parent / "gateway"  # what `programs` builds
CORE = {"HTTP": "HTTPRoute", "GRPC": "GRPCRoute", "TLS": "TLSRoute", "TCP": "TCPRoute", "UDP": "UDPRoute"}


def _of_gateways(feature: str) -> bool:
    return feature.startswith("Gateway") and feature != "Gateway"


# What edgemesh claims beyond the core of a profile, and features of gateways that some mesh tests ask for, which no profile counts.
CLAIMED = {
    "MESH-HTTP": (
        "MeshClusterIPMatching",
        "MeshConsumerRoute",
        "MeshHTTPRouteBackendRequestHeaderModification",
        "MeshHTTPRouteNamedRouteRule",
        "MeshHTTPRouteQueryParamMatching",
        "MeshHTTPRouteRedirectPath",
        "MeshHTTPRouteRedirectPort",
        "MeshHTTPRouteRewritePath",
        "MeshHTTPRouteSchemeRedirect",
    ),
    "GATEWAY-HTTP": tuple(one for one in FEATURES if one.startswith("HTTPRoute") or _of_gateways(one)),
    "GATEWAY-GRPC": tuple(one for one in FEATURES if one.startswith("GRPCRoute") or _of_gateways(one)),
    "GATEWAY-TLS": tuple(one for one in FEATURES if one.startswith("TLSRoute") or _of_gateways(one)),
    "GATEWAY-TCP": tuple(one for one in FEATURES if one.startswith("TCPRoute") or _of_gateways(one)),
}
BESIDE = (
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
)
# The suite's routes are to decide who is reached, not who may call: in its namespaces everyone may.
PERMISSIVE = {
    "apiVersion": "config.openservicemesh.io/v1alpha2",
    "kind": "MeshConfig",
    "metadata": {"name": "edgemesh", "namespace": "edgemesh-system"},
    "spec": {"traffic": {"enablePermissiveTrafficPolicyMode": True}},
}
ENROLLED = "edgemesh.io/mesh=enabled"
CLASS = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "GatewayClass",
    "metadata": {"name": "edgemesh"},
    "spec": {"controllerName": CONTROLLER},
}
# The suite has several Gateways for all hosts of one port: each has an address of its own, on the first node.
DOORS = "172.31.77.112/28"
SETTINGS = {
    "apiVersion": "edgemesh.io/v1alpha1",
    "kind": "NodeConfig",
    "metadata": {"name": "default"},
    "spec": {"gateway": {"addresses": [DOORS]}},
}
# Certificates of listeners are in the suite's own namespaces, which come with each run.
MAY_READ_CERTIFICATES = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "edgemesh-conformance"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "edgemesh-gateway-certificates",
    },
    "subjects": [
        {"kind": "ServiceAccount", "name": f"edgemesh-{one}", "namespace": "edgemesh-system"}
        for one in ("agent", "server")
    ],
}
# Seconds that a right answer and a condition may take where a failing test is to fail soon.
QUICK = {"MaxTimeToConsistency": 5, "NamespacesMustBeReady": 60, "DefaultTestTimeout": 15, "RequestTimeout": 5}


@dataclass
class Outcome:
    """What one test of the suite came to."""

    name: str
    result: str  # PASS, FAIL or SKIP
    seconds: float
    complaint: str = ""


def prepare(cluster: Cluster, channel: str) -> None:
    """Bring the suite's images and the Gateway API's definitions to the cluster, and edgemesh, permissive."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, files, entrypoint) in enumerate(_images()):
            archive = Path(folder, f"{number}.tar")
            image.write(name, archive, files, entrypoint)
            cluster.load_image(archive)
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(MADE / f"crds-{channel}.yaml"))
    cluster.kubectl("wait", "--for", "condition=Established", "--timeout", "60s", "crd", "--all")
    Mesh(cluster).up()
    cluster.apply(PERMISSIVE)
    cluster.apply(CLASS)
    cluster.apply(SETTINGS)
    for address in ipaddress.ip_network(DOORS).hosts():
        cluster.inside(cluster.nodes[0], "ip", "address", "replace", f"{address}/24", "dev", "eth0")
    cluster.apply(MAY_READ_CERTIFICATES)


def _images() -> list[tuple[str, dict[str, Path], list[str]]]:
    """Each image that the suite's manifests name: its name, its files, what it runs."""
    bin_ = "/usr/bin"
    app = {f"{bin_}/server": MADE / "app", f"{bin_}/client": MADE / "app"}
    app |= {"/cert.crt": MADE / "cert.crt", "/cert.key": MADE / "cert.key"}
    kinds = {
        "echo-basic": ({"/echo-basic": MADE / "echo-basic"}, ["/echo-basic"]),
        "echo-advanced": (app, [f"{bin_}/server"]),
        "coredns": ({"/coredns": PROGRAMS / "coredns"}, ["/coredns"]),
    }
    found = []
    for name in (MADE / "images.txt").read_text().split():
        kind = kinds.get(name.rpartition("/")[2].partition(":")[0])
        if kind is None:
            raise Problem(f"no program is known for image {name} of the suite")
        found.append((name, *kind))
    return found


def run(cluster: Cluster, profile: str, out: Path, options: argparse.Namespace) -> list[Outcome]:
    """Run one profile (two joined by "+": both in one run). Write its report and log into `out`, and return each test's outcome."""
    names = profile.split("+")
    core = ["Mesh"] if any(one.startswith("MESH") for one in names) else []
    core += ["Gateway", "ReferenceGrant"] if any(one.startswith("GATEWAY") for one in names) else []
    core += [route for family, route in CORE.items() if any(one.endswith(f"-{family}") for one in names)]
    claimed = [one for one in _features(names, options.features) if one not in core]
    report = out / f"{profile}.yaml"
    report.unlink(missing_ok=True)
    timeouts = dict(QUICK) if options.quick else {}
    if options.strict:
        timeouts["RequiredConsecutiveSuccesses"] = options.strict
        if options.quick:  # each answer is that of a program begun in a pod
            timeouts["MaxTimeToConsistency"] += options.strict // 2
    flags = {
        "test.parallel": "8",
        "test.timeout": f"{options.minutes}m",
        "test.run": "^TestConformance$" + (f"/^({options.tests})$" if options.tests else ""),
        "conformance-profiles": ",".join(names),
        "gateway-class": "edgemesh",
        "supported-features": ",".join(core + claimed),
        "exempt-features": options.exempt,
        "namespace-labels": ENROLLED if "Mesh" in core else "",
        "report-output": str(report),
        "organization": "edgemesh",
        "project": "edgemesh",
        "url": "https://edgemesh.io",
        "version": __version__,
        "contact": "edgemesh",
        "timeout-config-overrides": ";".join(f"{key}:{value}" for key, value in timeouts.items()),
    }
    command = [str(MADE / "conf.test"), "-test.v", "-allow-crds-mismatch"]
    command += [f"-{key}={value}" for key, value in flags.items() if value]
    # What a run that was broken off left would be waited for.
    left = [
        one["metadata"]["name"]
        for one in cluster.list("namespaces")
        if one["metadata"]["name"].startswith("gateway-conformance-")
    ]
    if left:
        cluster.kubectl("delete", "namespace", "--timeout=120s", *left)
    log = out / f"{profile}.log"
    with log.open("wb") as file:
        environment = os.environ | {"KUBECONFIG": f"{cluster.folder}/admin-lan.kubeconfig"}
        subprocess.run(
            [f"{cluster.folder}/outside", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    return outcomes(log.read_text(errors="replace"))


def _features(profiles: list[str], wanted: str) -> list[str]:
    """Return the extended features that a run claims; "all": ours, and those beside every profile."""
    claimed = [one for profile in profiles for one in CLAIMED.get(profile, ())]
    if wanted == "all":
        return [*claimed, *BESIDE]
    return claimed if not wanted else [one for one in wanted.split(",") if one != "none"]


def outcomes(log: str) -> list[Outcome]:
    """Read what `go test -v` printed of each test of the suite, in its order; a failed one with the last thing it complained of."""
    found: dict[str, Outcome] = {}
    complaints: dict[str, str] = {}
    name = ""
    for line in log.splitlines():
        ended = re.match(r"\s+--- (PASS|FAIL|SKIP): TestConformance/([^/ ]+)(/\S*)? \(([\d.]+)s\)", line)
        if ended:
            result, test, part, seconds = ended.groups()
            if part is None:
                found[test] = Outcome(test, result, float(seconds))
            elif test in found:  # a part that runs beside others ends after its test's own clock stopped
                found[test].seconds = max(found[test].seconds, float(seconds))
        at = re.match(r"\s*(?:=== (?:RUN|NAME|CONT|PAUSE)|--- \w+:)\s+TestConformance/([^/ ]+)", line)
        if at:
            name = at[1]
        elif re.search(r"(?i)expect|not ready yet|error|timed out|distribution|fatal", line):
            complaints[name] = re.sub(r"^\s*\S+\.go:\d+:\s*(\S+Z:)?\s*", "", line).strip()[:240]
    for one in found.values():
        one.complaint = complaints.get(one.name, "") if one.result == "FAIL" else ""
    return list(found.values())


def summary(report: Path) -> tuple[bool, list[str]]:
    """Return whether every core test of the report passed, and a line for each profile."""
    if not report.exists():
        return False, [f"{report.stem}: the suite wrote no report; {report.with_suffix('.log')} says why"]
    read: dict[str, Any] = yaml.safe_load(report.read_text())
    if not read["profiles"]:
        return False, [f"{report.stem}: its tests are counted by no profile"]
    good, lines = True, []
    for profile in read["profiles"]:
        line = f"{profile['name']:13}"
        for part in ("core", "extended"):
            held = profile.get(part)
            if held:
                count = held["statistics"]
                line += f"  {part}: {count['Passed']} passed, {count['Failed']} failed, {count['Skipped']} skipped"
        lines.append(line)
        good = good and profile["core"]["result"] == "success"
    return good, lines


def main() -> int:
    """Return 0 when every core test of each profile passed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("profiles", nargs="*", metavar="PROFILE", help="MESH-HTTP and MESH-GRPC without one")
    arguments.add_argument(
        "--features",
        default="",
        help="extended features claimed, separated by commas: none, all with those beside every profile; without: ours",
    )
    arguments.add_argument("--exempt", default="", help="features left out")
    arguments.add_argument("--tests", default="", help="only tests whose whole name fits this regular expression")
    arguments.add_argument("--strict", type=int, default=0, metavar="N", help="N answers in a row must be right")
    arguments.add_argument("--quick", action="store_true", help="a failing test fails after seconds")
    arguments.add_argument("--channel", choices=("standard", "experimental"), default="standard")
    arguments.add_argument("--out", type=Path, default=Path("dist/gateway-conformance"))
    arguments.add_argument("--minutes", type=int, default=60, help="of a run, at most")
    options = arguments.parse_args()
    if why := lacking():
        print(why, file=sys.stderr)
        return 2
    if not (MADE / "images.txt").exists():
        print(f"there is no suite in {MADE}: tests/kube/gateway/programs builds it", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    good = True
    cluster = given() or Cluster.make(2)
    try:
        prepare(cluster, options.channel)
        for profile in options.profiles or ["MESH-HTTP", "MESH-GRPC"]:
            began = time.monotonic()
            found = run(cluster, profile, options.out, options)
            passed, lines = summary(options.out / f"{profile}.yaml")
            good = good and passed
            print("\n".join(lines), f" {time.monotonic() - began:.0f} s")
            for one in found:
                if one.result != "SKIP":
                    print(f"  {one.result} {one.seconds:6.1f} s  {one.name}  {one.complaint}".rstrip())
            good = good and all(one.result != "FAIL" for one in found)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    finally:
        cluster.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
