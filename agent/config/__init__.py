"""The node's settings.

schema.py    NodeConfig: every field, its type, its default
checks.py    checks of values beyond their types
settings.py  NodeConfig objects, command line and environment become one NodeConfig
"""
