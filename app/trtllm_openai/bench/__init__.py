"""Load-test client for any server with OpenAI's streaming API.

Several processes run an event loop each, over raw asyncio transports. The client spends a few microseconds
per token, so that the server is the bottleneck.
"""
