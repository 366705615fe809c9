"""`edgemesh cleanup`: take away what edgemesh left in the kernel, and only that."""

from __future__ import annotations

import os
import sys

from agent.kernel import cgroup, netns, nft, route
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink


def namespaces() -> list[str]:
    """Every network namespace that can be found: ours, mounted ones, and those of running processes, each once."""
    found: dict[tuple[int, int], str] = {}
    paths = ["/proc/self/ns/net", *netns.named(), *netns.mounted()]
    paths += [f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit()]
    for path in paths:
        key = netns.identity(path)
        if key is not None and netns.is_namespace(path):
            found.setdefault(key, path)
    return list(found.values())


def remove(path: str) -> list[str]:
    """Take our table, rules and routes out of one namespace; says what there was. Raises OSError."""
    removed: list[str] = []
    namespace = netns.Namespace(path)
    try:
        with namespace.entered():
            with Netlink(NETLINK_NETFILTER) as netlink:
                if nft.exists(netlink):
                    nft.install(netlink, None, owned=False)
                    removed.append("table inet edgemesh")
            if count := route.remove():
                removed.append(f"{count} rules and routes")
    finally:
        namespace.close()
    return removed


def cleanup() -> int:
    """The command. Exit code 1 when something of ours could not be removed."""
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
