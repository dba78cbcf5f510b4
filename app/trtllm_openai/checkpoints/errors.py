"""The one error of this package."""


class CheckpointError(Exception):
    """The model cannot be used; the message is one sentence for the person who starts the server."""
