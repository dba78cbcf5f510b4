"""`/v1/responses`: the conversation's state is kept here, so that a client need not send it again."""
