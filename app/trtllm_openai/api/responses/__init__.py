"""`/v1/responses`: stateful conversations, translated to chat requests."""
