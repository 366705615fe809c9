"""Names for captured workloads: edgemesh answers for Service names, and for other names what their resolvers say.

resolver.py      the resolver of one workload: its UDP and TCP listeners, their bounds and counts
upstream.py      asks the resolvers that the workload asked, each question once at a time, or gives what is known
cache.py         what resolvers answered, within the workload's share of the node's memory (sans-IO)
memory.py        which resolvers do not answer, and when to ask them again (sans-IO)
conversation.py  one DNS connection over TCP: questions in, answers out, in any order
"""

from nodeproxy.dns.cache import NODE_BYTES, Budget
from nodeproxy.dns.resolver import Counts, Resolver

__all__ = ["NODE_BYTES", "Budget", "Counts", "Resolver"]
