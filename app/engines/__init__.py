"""Engines behind one interface. They know `app.generation` and nothing of HTTP, text or sockets."""
