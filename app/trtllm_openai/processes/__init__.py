"""Processes of this server and what passes between them.

Addresses, authentication, framing of messages, keeping processes running, their environment, cores, memory,
MPI ranks.
"""
