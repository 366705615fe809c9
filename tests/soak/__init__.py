"""The soak ring: real daemons on two nodes, calls that last longer than every deadline of the code, while everything about them changes."""
