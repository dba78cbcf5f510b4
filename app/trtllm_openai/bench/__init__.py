"""`bench`: drives any server that speaks OpenAI's streaming API, and says how fast it was.

Several processes, each an event loop with raw sockets. A token costs the client a few microseconds, so that
the server is what is measured.
"""
