"""Sinks take the records of requests and connections. A sink is one file and one row of SINKS.

sinks.py           SINKS: every record goes to one of each
sink.py            the interface of a sink
metrics.py         Prometheus metrics
access_log.py      one line for each record
recent_denials.py  the last refusals, by request ID
fair_share.py      each caller's share: a flood of one caller hides no line of another
"""
