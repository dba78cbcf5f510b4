"""Engines behind one interface. They know `generation` and nothing of HTTP, text or sockets."""
