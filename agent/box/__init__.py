"""edgemesh on a bare box: installed as a systemd service, and taken away again. `edgemesh setup`, `remove` and `wait`.

edgemesh.service   the unit (a link to systemd/edgemesh.service)
files.py           what setup writes on a box, and where: text -> files, whole or not at all
units.py           the drop-in by which a unit begins captured
systemctl.py       the service manager, asked by its program

`agent/commands/setup.py` has the journeys.
"""
