"""pydantic models of the wire, and nothing else."""
