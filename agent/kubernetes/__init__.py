"""The client of the Kubernetes API: requests, and lists that stay current.

access.py  where the API server is and how we prove who we are: a pod's token, or a kubeconfig
api.py     requests to the API server, and watches
connections.py  connections to it, and what proves who is at either end
pace.py    how many requests a second this process makes
reflector.py  all objects of one kind, kept current
discovery.py  which versions of the kinds that we want are served
tls.py     a connection to the API server, whose certificate is checked by its name
lease.py   leader election by a Lease
events.py  Events that this process writes, bounded
nesting.py  JSON that is nested deeper than any object of Kubernetes
"""
