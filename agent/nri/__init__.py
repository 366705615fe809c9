"""NRI: the container runtime tells of each pod before its first process, and waits for the answer (containerd, CRI-O).

plugin.py     the connection to the runtime, kept: registers, and answers each event
boot.py       the program that the runtime starts before the first pod
boot_files.py where that program and what it knows are kept
inquiry.py    what that program asks the API server
messages.py   the few messages that are used: events to values, answers to bytes
frames.py     frames on the connection: which of its two channels, which call
protobuf.py   fields of a message, as far as these need it

protobuf.py, frames.py and messages.py are sans-IO. The protocol is containerd/nri's, version 0.2 to 0.12.
"""
