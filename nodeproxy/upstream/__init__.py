"""What is known of endpoints, and the connections to them that are kept.

balance.py     requests in progress, failures, and the turns of a split
hashing.py     consistent hashing: which endpoint a key leads to
retry_budget.py  requests that are sent again: how many at once, and how much of their bodies is kept
http1_pool.py  idle HTTP/1.1 connections, by caller and endpoint
shares.py      what each caller has under way to each Service, within its bounds; circuit.py: its circuit breaker
rates.py       how often servers of this node are called
http2_pool.py  HTTP/2 connections, each shared by the requests of one caller
"""
