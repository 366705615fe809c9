"""Updates of the one file, from a signed bundle, without a dropped connection.

bundle.py      the file format: manifest, signatures, files                                pure
keys.py        trusted keys of this box, and the greatest epoch that ran                   files in the state directory
fetch.py       gets a bundle from a path or over HTTP: resumed, bounded, rate-limited
releases.py    what is installed: one directory for each release, and a link to one of them

An update: `edgemesh update` fetches and verifies the bundle (fetch, bundle, keys) and stages it (releases). The daemon
lets the new one take over (agent/daemon/update.py, agent/daemon/handover.py), and moves the link once the new one has
reported healthy. Until then the link leads to the old release, whatever fails.
"""
