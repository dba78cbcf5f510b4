"""Processes of this server and what passes between them: framing of messages, cores, memory, MPI ranks."""
