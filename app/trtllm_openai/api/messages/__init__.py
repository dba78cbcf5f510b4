"""`/v1/messages`, Anthropic's API, translated to chat requests."""
