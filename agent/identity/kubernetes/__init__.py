"""The authority in a Kubernetes cluster: certificates by CertificateSigningRequest, signed by whoever holds the lease.

objects.py     names and shapes of the API objects, and the fields that are read of them
signer.py      a node's side: the Signer that makes CertificateSigningRequests
requests.py    what a CertificateSigningRequest asks for, and by whom it was made; pure
turns.py       callers have turns; pure
memory.py      the authority's folder in memory: what the Secret holds
state.py       the Secret and the ConfigMap: made once, read again, never overwritten
given.py       an authority that was made elsewhere, or that is elsewhere: MeshRootCertificate
rotating.py    a step of the root's rotation that a person asks for: annotations of the ConfigMap; pure
cert_manager.py  cert-manager, where that signs
outside.py     what an AccessCert asks for, and which names a client outside the mesh may not have; pure
access_certs.py  the Secrets of AccessCerts: certificates for clients outside the mesh
authority.py   the signing side, run by the holder of the lease
"""
