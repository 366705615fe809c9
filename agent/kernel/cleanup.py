"""`edgemesh cleanup`: remove what edgemesh left in the kernel, and nothing else."""

from __future__ import annotations

import os
import sys

from agent.kernel import netns, nft, routing
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
from agent.kernel.ruleset import GATE, NODE, NODE_BRIDGE, OURS
from agent.system import cgroup


def namespaces() -> list[str]:
    """Return one path for each network namespace that can be found: ours, mounted ones, those of running processes."""
    found: dict[tuple[int, int], str] = {}
    paths = ["/proc/self/ns/net", *netns.named(), *netns.mounted()]
    paths += [f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit()]
    for path in paths:
        key = netns.identity(path)
        if key is not None and netns.is_namespace(path):
            found.setdefault(key, path)
    return list(found.values())


def remove(path: str) -> list[str]:
    """Remove our tables, rules and routes from one namespace. Return what was removed. Raise OSError."""
    removed: list[str] = []
    namespace = netns.Namespace(path)
    try:
        with namespace.entered():
            with Netlink(NETLINK_NETFILTER) as netlink:
                for name in (OURS, NODE, NODE_BRIDGE, GATE):
                    if nft.exists(netlink, name):
                        nft.install(netlink, None, owned=False, name=name)
                        removed.append(str(name))
            if count := routing.remove():
                removed.append(f"{count} rules and routes")
    finally:
        namespace.close()
    return removed


def cleanup() -> int:
    """Run the command. Return exit code 1 when something of ours could not be removed."""
    failed = False
    total = 0
    for path in namespaces():
        try:
            removed = remove(path)
        except OSError as error:
            failed = True
            print(f"edgemesh: {path}: {error}; stop the daemon first, or run as root", file=sys.stderr)
            continue
        if removed:
            total += len(removed)
            print(f"{path}: removed {', '.join(removed)}")
    root = cgroup.mount()
    for folder in sorted(root.glob("edgemesh-*")) if root else []:
        if cgroup.leave(folder):
            total += 1
            print(f"removed cgroup {folder}")
        else:
            failed = True
            print(f"edgemesh: {folder} is in use: a daemon runs; stop it first", file=sys.stderr)
    if not total and not failed:
        print("nothing of edgemesh was left")
    return 1 if failed else 0
