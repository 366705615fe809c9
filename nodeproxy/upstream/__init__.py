"""The way out: a decision becomes a stream.

route.py    which endpoint, and may it be used (asks policy with the newest snapshot)
live.py     what we learned of endpoints: load, failures, whose turn it is
connect.py  an endpoint becomes a connected stream, made where the workload lives
"""
