"""HTTP for the agent's own use.

server.py  the one small HTTP server
client.py  the one small HTTP client
"""
