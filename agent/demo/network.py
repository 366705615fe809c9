"""The demo's network: one namespace for each application, joined by a bridge that stands for the node's switch.

    em-bookbuyer   em-bookthief   em-bookstore-v1  ...  em-outsider
         |              |               |                    |
    +----+--------------+---------------+--------------------+----+
    |                   bridge in em-node                         |
    +-------------------------------------------------------------+

Each application has one address of each family on eth0, and default routes. The bridge has 10.71.0.1 and fd71:656d::1:
the gateway and the resolver.

With two nodes there are two of these, em-node-1 and em-node-2, each with its own applications and the subnets
10.71.N.0/24 and fd71:656d:N::/64, and a link between them (10.71.0.1 -- 10.71.0.2), over which they forward. Each
node's daemon runs in its namespace.

No process listens on the bridge's address, though applications use it as their resolver. In a workload of the mesh the
daemon itself responds to DNS queries; in em-outsider, which is not in the mesh, they get no response, as for any client
outside the mesh. Only this file uses pyroute2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pyroute2 import netns
from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.demo.plan import BITS4, BITS6, HOSTS, NSSWITCH, PREFIX, RESOLV_CONF, Host, Site
from agent.kernel import netns as kernel

IFA_F_NODAD = 0x02  # linux/if_addr.h: usable at once; this bridge has no other host that could have the address
RUN = Path("/run/netns")
ETC = Path("/etc/netns")


class Network:
    """A network made on entry and removed on exit, even after an error. `ipv6`: whether the kernel has it.

    Raise OSError or NetlinkError when the kernel refuses (no CAP_NET_ADMIN, or no CAP_SYS_ADMIN for namespaces).
    """

    def __init__(
        self,
        hosts: Iterable[Host] = HOSTS,
        prefix: str = PREFIX,
        configure_names: bool = True,
        sites: Iterable[Site] = (Site(),),
    ) -> None:
        self.hosts = tuple(hosts)
        self.sites = tuple(sites)
        self.prefix = prefix
        self.configure_names = configure_names  # False: /etc is not writable here; the caller handles resolv.conf
        self.ipv6 = Path("/proc/sys/net/ipv6").exists()

    def __enter__(self) -> Network:
        remove_leftovers(self.prefix, self.configure_names)
        try:
            with _signals_held():
                self._make()
        except BaseException:
            remove_leftovers(self.prefix, self.configure_names)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        remove_leftovers(self.prefix, self.configure_names)

    def name(self, host: str) -> str:
        return self.prefix + host

    def link(self, up: bool) -> None:
        """Take the link between the two nodes down, or put it up again."""
        with _signals_held():
            if up:
                self._connect()
                return
            with IPRoute(netns=self.name(self.sites[0].name)) as ip:
                (index,) = ip.link_lookup(ifname="link")
                ip.link("set", index=index, state="down")

    def _make(self) -> None:
        for site in self.sites:
            self._namespace(self.name(site.name))
        for host in self.hosts:
            self._namespace(self.name(host.name))
        for site in self.sites:
            self._node(site)
        if len(self.sites) > 1:
            first, second = (self.name(site.name) for site in self.sites)
            with IPRoute(netns=first) as ip:
                _link(ip, "link", kind="veth", peer={"ifname": "link", "net_ns_fd": second})
            self._connect()
        gateways = {site.number: site for site in self.sites}
        for host in self.hosts:
            with IPRoute(netns=self.name(host.name)) as ip:
                ip.link("set", index=1, state="up")
                (eth0,) = ip.link_lookup(ifname="eth0")
                ip.link("set", index=eth0, state="up")
                self._addresses(ip, eth0, host.address4, host.address6)
                ip.route("add", dst="default", gateway=gateways[host.site].gateway4)
                if self.ipv6:
                    ip.route("add", dst="default", gateway=gateways[host.site].gateway6, family=10)

    def _node(self, site: Site) -> None:
        """Make a bridge with the node's hosts."""
        with IPRoute(netns=self.name(site.name)) as ip:
            ip.link("set", index=1, state="up")
            bridge = _link(ip, "bridge0", kind="bridge")
            self._addresses(ip, bridge, site.gateway4, site.gateway6)
            for host in self.hosts:
                if host.site == site.number:
                    port = _link(
                        ip,
                        f"port{host.number}",
                        kind="veth",
                        peer={"ifname": "eth0", "net_ns_fd": self.name(host.name)},
                    )
                    ip.link("set", index=port, master=bridge, state="up")

    def _connect(self) -> None:
        """Set addresses and routes at both ends of the link. The kernel removes some of them when a link goes down."""
        for here, there in (self.sites, self.sites[::-1]):
            with IPRoute(netns=self.name(here.name)) as ip:
                (index,) = ip.link_lookup(ifname="link")
                self._addresses(ip, index, here.link4, here.link6)
                for subnet, gateway in zip(there.subnets, (there.link4, there.link6), strict=True):
                    if self.ipv6 or ":" not in subnet:
                        ip.route("replace", dst=subnet, gateway=gateway, family=10 if ":" in subnet else 2)
            with kernel.Namespace(str(RUN / self.name(here.name))).entered():
                for name in ("ipv4/ip_forward", *(["ipv6/conf/all/forwarding"] if self.ipv6 else [])):
                    kernel.sysctl(name, "1")

    def _namespace(self, name: str) -> None:
        netns.create(name)
        if not (RUN / name).exists():
            raise OSError(errno.EPERM, "the kernel refused to make a network namespace", name)
        if self.configure_names:
            folder = ETC / name
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(RESOLV_CONF)
            if Path("/etc/nsswitch.conf").exists():  # `ip netns exec` can only cover an existing file
                (folder / "nsswitch.conf").write_text(NSSWITCH)

    def _addresses(self, ip: IPRoute, index: int, address4: str, address6: str) -> None:
        ip.link("set", index=index, state="up")
        ip.addr("replace", index=index, address=address4, prefixlen=BITS4)
        if self.ipv6:
            try:
                ip.addr("replace", index=index, address=address6, prefixlen=BITS6, flags=IFA_F_NODAD)
            except NetlinkError:  # net.ipv6.conf.default.disable_ipv6 = 1
                self.ipv6 = False


def remove_leftovers(prefix: str = PREFIX, names_too: bool = True) -> None:
    """End every process in our namespaces, then remove the namespaces and the files that give them their resolver.

    `ip netns exec` reads those files. `names_too` False: /etc is not writable here. What a demo run by root left there
    says the same as ours would, and may stay.
    """
    names = [path.name for path in RUN.glob(f"{prefix}*")] if RUN.exists() else []
    _end_processes([RUN / name for name in names])
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            netns.remove(name)
    if not names_too:
        return
    for folder in ETC.glob(f"{prefix}*") if ETC.exists() else ():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with contextlib.suppress(OSError):  # not empty: others use it; or missing: nothing to do
        ETC.rmdir()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals until the block ends.

    pyroute2 enters a namespace in a forked copy of us and ends that copy by SIGTERM: with the demo's handler the copy
    would unwind as we do on Ctrl-C, and remove what we are just building.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _link(ip: IPRoute, name: str, **attributes: object) -> int:
    ip.link("add", ifname=name, **attributes)
    (index,) = ip.link_lookup(ifname=name)
    return int(index)


def _end_processes(namespaces: list[Path], patience: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
    """Send SIGTERM, then after `patience` seconds SIGKILL, to every process in these namespaces.

    A namespace lives as long as its processes.
    """
    wanted = set()
    for path in namespaces:
        with contextlib.suppress(OSError):
            wanted.add(_identity(path))
    deadline = clock() + patience
    first = True
    while running := list(_processes_in(wanted)):
        late = clock() > deadline
        if clock() > deadline + patience:
            return  # stuck in the kernel: the namespace's name goes anyway
        if first or late:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        first = False
        time.sleep(0.05)


def _identity(path: Path) -> tuple[int, int]:
    """Return what identifies a namespace (namespaces(7)): an inode number is only unique within its device."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _processes_in(namespaces: set[tuple[int, int]]) -> Iterator[int]:
    if not namespaces:
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                # A zombie has no namespace any more; its parent will reap it.
                if _identity(entry / "ns/net") in namespaces:
                    yield int(entry.name)
