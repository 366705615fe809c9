"""Installing and removing edgemesh: on a bare machine as a systemd service, in a Kubernetes cluster as an add-on.

edgemesh.service   the unit (a link to systemd/edgemesh.service)
files.py           the files that setup writes, each replaced whole or not at all
drop_ins.py        the drop-in that makes a unit wait until it is captured
systemctl.py       calls systemctl
addon.py           the objects of a cluster, from the texts in manifests/
rollout.py         sends them to the API server, and says why a daemon is not ready
manifests/         those texts; the definitions of kinds are made from policy/kinds (`make reference`)

`agent/commands/setup.py` has the sequences of steps on a machine.
"""
