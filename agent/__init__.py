"""agent keeps it true: what is configured, what runs here, what the kernel does, what people see. Imports policy and nodeproxy.

cli.py commands/   the command line: COMMANDS, and what each verb does
app.py             assembly of the daemon in one nursery; publish, read top to bottom
config.py          settings of the nodes (NodeConfig), command line and environment; config_checks.py: what is wrong with a value
sources/           where objects come from: a directory of manifests, watched
inotify.py         inotify(7) for trio
store.py state.py  every object -> one snapshot after another; what outlives a restart
charge.py handover.py health.py probe.py   who is in charge of the node, and how another daemon takes that over when it is well
supervisor.py kept.py   the service manager, and descriptors that outlive us
ota/               updates from signed bundles
box/               installed on a bare box: the systemd unit, drop-ins
kernel/            doors and rules inside the workloads' namespaces
metrics.py accesslog.py   sinks for finished requests and connections
status.py explain.py      documents: what the daemon tells of itself, and why a call is allowed or not
admin/ httpd.py    the admin API (VIEWS) on its Unix socket, and the HTTP server under it
demo/              the bookstore in network namespaces
"""

__version__ = "0.1.0"
__epoch__ = 1  # rises with every release, whatever its name: which of two is newer (agent/ota/bundle.py)
