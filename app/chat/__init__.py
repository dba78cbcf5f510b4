"""From a conversation to the model's prompt."""

from app.chat.messages import normalise
from app.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "normalise"]
