"""All objects, built into one snapshot after another.

store.py     objects by origin, built into a snapshot
disk.py      what outlives a restart
problems.py  what is wrong with manifests, within bounds
"""
