"""pydantic models of requests and responses on the wire; no logic beyond validation."""
