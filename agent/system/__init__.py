"""The operating system, as the agent uses it.

service_manager.py  systemd's notification protocol
fd_store.py         descriptors that outlive the process
cgroup.py           our own cgroup, and those of units
mounts.py           file systems that are mounted nowhere
resolvers.py        which resolvers count for what leaves the mesh by name
inotify.py          inotify(7) for trio
files.py            files that are replaced whole
state_files.py      state files that may be damaged
private_memory.py   no core dump, no access to our memory by other processes
memory.py           returns unneeded memory to the system
gc_pause.py         no garbage collection while manifests are read
program.py          how this program was started
"""
