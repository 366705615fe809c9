"""The agent: what is configured, what runs on this node, what the kernel does, what people see. It imports policy and nodeproxy.

Each folder imports only what stands below it in this list (`make check` holds that):

cli.py __main__.py  the command line
commands/   what each command does
daemon/     the running node: start, hand over to another release, readiness
demo/       the bookstore in network namespaces
admin/      the admin API: status, explain, actions
nri/        what the container runtime tells of pods that begin
kernel/     capture: rules and listeners inside the workloads' namespaces
store/      every object becomes one snapshot after another; what outlives a restart
telemetry/  sinks: metrics, access log, recent denials
cluster/    what one server does for a whole Kubernetes cluster
gateway/    what listeners of Gateways present: certificates and roots, from Secrets or files
sources/    where objects come from: a directory of manifests, a Kubernetes API server
identity/   certificates: the authority, and a node's own
ota/        updates from signed bundles
install/    installed on a bare box: systemd unit, drop-ins
kubernetes/  the client of the Kubernetes API
config/     settings of the node (NodeConfig), command line and environment
system/     the operating system: files, service manager, inotify, cgroups, memory
http/       the one small HTTP server, and the one small HTTP client
"""

__version__ = "0.1.0"
__epoch__ = 1  # rises with every release, whatever its name: which of two is newer (agent/ota/bundle.py)
