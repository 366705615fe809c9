"""What there is to say about traffic: report.py is the one record of a connection or request; sinks live in `agent`."""
