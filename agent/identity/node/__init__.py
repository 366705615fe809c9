"""A node's certificates.

manager.py      keeps a valid certificate for the node and for every identity that runs on it
client.py       the authority over HTTPS, and how a node joins
certificate.py  the certificate of one identity: what is held, how a new one is requested
lifecycle.py    the state of one certificate, and when it is requested again; pure
roots.py        the authority's bundle, as the data plane uses it
clock.py        the time, as well as a node can know it
store.py        all of that on the disk
report.py       problems and documents for people
"""
