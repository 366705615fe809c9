"""What the data plane reports about traffic. Sinks are in agent/telemetry.

record.py  one record for each connection and each request, closed exactly once
counts.py  requests that the fast path counted: sums for one pair of workloads
"""
