"""Names for captured workloads: Service names are answered here, other questions go unchanged to the resolver that was asked.

message.py       bytes of a question -> bytes of an answer (sans-IO)
resolver.py      the resolver of one workload: its UDP door, its TCP door, what they may hold, what they count
conversation.py  one DNS connection over TCP: questions in, answers out, in any order
"""

from nodeproxy.dns.resolver import Counts, Resolver

__all__ = ["Counts", "Resolver"]
