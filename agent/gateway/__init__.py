"""What listeners of Gateways present and trust: certificates with their keys, and roots, that policy only names.

keeper.py   follows what the listeners name, and gives the data plane certificates that can be used
material.py from the content of a Secret to a certificate, or why it cannot be used
content.py  objects that listeners name, and what is known of each
secrets.py  Secrets and ConfigMaps of Kubernetes, each followed by its name
lacking.py  which listeners this node cannot serve, and why
shown.py    the listeners of this node as people see them
kept.py     what was read of those, for a start without the API server
files.py    the same from a folder, on boxes without Kubernetes
"""
