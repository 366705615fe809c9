"""The commands of the command line. A command is one file here, of the command's name, and one row of COMMANDS.

A file has `arguments(parser)`, which declares the command's options, and `run(arguments)`, which runs it and returns
the exit code. It is imported when its command is typed, so that the daemon loads nothing that only people need.

run.py         the daemon
check.py       read manifests and report what is wrong with them
status.py      ask the daemon: the node, its workloads, problems
routes.py      ask the daemon: services, endpoints, splits, grants
explain.py     ask the daemon, or manifests: may SRC call DST, and which side refused a request
connections.py ask the daemon: open connections
ca.py          the authority's folder, beside a running daemon
certs.py       ask the daemon: certificates and roots
join.py        enrol this node with an authority
update.py      another release, from a signed bundle
setup.py       install the one file as a service of this machine
remove.py      the reverse of setup
wait.py        what the units of workloads wait with
release.py     release what stays though no manifest says it
cleanup.py     remove what is left in the kernel, and on the disk
install.py     edgemesh for a Kubernetes cluster: apply it, and wait until each node has its daemon
uninstall.py   the reverse of install
demo.py        the bookstore
namespace.py   which namespaces of a cluster are in the mesh
metrics.py     mark namespaces whose metrics are wanted
mesh.py        the meshes of a cluster, and their daemons
policy.py      may one pod of a cluster call another, by its objects
verify.py      what a call from one pod to another needs
support.py     an archive for who looks for a fault, without secrets
completion.py  a script for a shell, made from the parser
version.py     the version of edgemesh

What they share:

parser.py          COMMANDS -> argparse
options.py         options and types of values that several commands have
asking.py          requests to the daemon; a failed one becomes a message and an exit code
cluster.py         the same for the API server of a cluster
pods.py            two pods of a cluster, and what its policy says of them
views.py           a page of this node's daemon, or of the daemons of a cluster
nodes.py           requests to the daemons of a cluster's nodes, through its API server
nodes_shown.py     what several nodes answered, as tables
ca_cluster.py      the root of a cluster's authority, changed by its servers
authority_shown.py the output of `edgemesh ca` about an authority
tables.py          documents -> output: tables where there is room, blocks where there is not
terminal.py        where output goes: colour and width of a terminal, plain wide lines elsewhere
"""

from __future__ import annotations

from typing import NamedTuple

# Exit codes.
OK = 0
NO = 1  # the result is negative, or something is wrong
USAGE = 2  # the command line is invalid
WARNED = 2  # of check --strict: no error, but a warning
UNREACHABLE = 3  # no daemon responded

_CLUSTER = f"{OK} done, {NO} not done, {USAGE} usage, {UNREACHABLE} no API server answered"
_READ = f"{OK} here it is, {USAGE} usage, {UNREACHABLE} no daemon answered"


class Command(NamedTuple):
    """One command. The code is in the file of its name.

    summary: one line for the list of commands, the page and the manual. codes: what its exit codes mean. kernel: it
    reads namespaces and processes, and needs /proc.
    """

    summary: str
    codes: str = f"{OK} done, {NO} not done, {USAGE} the command line makes no sense"
    kernel: bool = False


COMMANDS: dict[str, Command] = {
    "run": Command(
        "capture this node's workloads and apply policy to them, until stopped",
        f"{OK} stopped, {NO} it could not start or go on, {USAGE} usage",
        kernel=True,
    ),
    "check": Command(
        "say everything that is wrong with manifests, and what was probably meant",
        f"{OK} nothing is an error, {NO} something is; {WARNED} with --strict: something is a warning, or usage",
    ),
    "status": Command(
        "show the node, its workloads, what passes unseen, and problems",
        f"{OK} enforcing, and no problem is an error; {NO} otherwise; {USAGE} usage; {UNREACHABLE} no daemon answered",
    ),
    "routes": Command("show services: addresses, ports, endpoints, splits, who may call", _READ),
    "explain": Command(
        "say whether SRC may call DST and which rule says so, or who refused a request",
        f"{OK} allowed, {NO} denied or not known, {USAGE} usage, {UNREACHABLE} no daemon answered",
    ),
    "connections": Command("show what is open just now", _READ),
    "ca": Command("run the mesh's authority: make it, enrol nodes with tokens, change its root"),
    "certs": Command("show this node's certificates, the roots that it believes, and who is revoked", _READ),
    "join": Command(
        "enrol this node with the mesh's authority, by a token",
        f"{OK} joined, {NO} refused, {USAGE} usage, {UNREACHABLE} the authority did not answer",
    ),
    "update": Command("take up another edgemesh from a signed bundle, go back, or say what was"),
    "setup": Command(
        "install this file as a systemd service of this box, or bring what is installed up to it", kernel=True
    ),
    "remove": Command("take edgemesh off this box: service, rules, files", kernel=True),
    "wait": Command(
        "wait until a systemd unit is captured; for its ExecStartPre=",
        f"{OK} it is captured, or no workload; {NO} not in time; {USAGE} usage",
        kernel=True,
    ),
    "release": Command(
        "let go of what stays captured or in force though no manifest says it any more",
        f"{OK} released, {NO} nothing of that name is kept, {USAGE} usage, {UNREACHABLE} no daemon answered",
    ),
    "cleanup": Command(
        "remove every rule and route that edgemesh left on this node, and what it left on the disk", kernel=True
    ),
    "install": Command(
        "install edgemesh in a Kubernetes cluster, and wait until every node has its daemon",
        f"{OK} every node has one that is ready, {NO} not, {USAGE} usage, {UNREACHABLE} no API server answered",
    ),
    "uninstall": Command(
        "take edgemesh out of a Kubernetes cluster, and its rules off the nodes",
        f"{OK} it is gone, {NO} not, {USAGE} usage, {UNREACHABLE} no API server answered",
    ),
    "demo": Command(
        "show the bookstore mesh in network namespaces of its own, step by step",
        f"{OK} every expectation held, {NO} one failed, {USAGE} the demo cannot run here, 130 interrupted",
        kernel=True,
    ),
    "namespace": Command("say which namespaces of a cluster are in the mesh, and which never", _CLUSTER),
    "metrics": Command("mark namespaces of a cluster whose metrics are wanted, and say where metrics are", _CLUSTER),
    "mesh": Command(
        "show the meshes of a cluster, their versions, and the daemon of each node",
        f"{OK} every node has a daemon that is ready, {NO} not, {USAGE} usage, {UNREACHABLE} no API server answered",
    ),
    "policy": Command(
        "say whether the policy of a cluster lets one pod call another",
        f"{OK} it does, on one port at least; {NO} it does not, or it is not known; {USAGE} usage; {UNREACHABLE} no API server answered",
    ),
    "verify": Command(
        "check all that a call between two pods of a cluster needs, and say what to do",
        f"{OK} all is there, {NO} something is missing or could not be looked at, {USAGE} usage, {UNREACHABLE} no API server answered",
    ),
    "support": Command("collect what helps to find a fault of a cluster's mesh, without its secrets", _CLUSTER),
    "completion": Command("print a script that completes this command line in a shell"),
    "version": Command("say which edgemesh this is"),
}
