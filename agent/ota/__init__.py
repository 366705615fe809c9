"""Updates of the one file, from a signed bundle, without a dropped connection.

bundle.py      the file format: manifest, signatures, files                     pure
trust.py       whose signatures count on this box, and how far we have come     files in the state directory
fetch.py       a bundle from a path or over HTTP: resumed, counted, not faster than asked
releases.py    what is installed: one directory for each release, one link that says which
change.py      the daemon's part: another release takes over, or nothing changes

A journey: `edgemesh update` fetches and verifies (fetch, bundle, trust) and stages (releases); the daemon lets the new one take over
(change, agent/handover.py) and moves the link when it has proved well. Until then the link leads to the old one, whatever fails.
"""
