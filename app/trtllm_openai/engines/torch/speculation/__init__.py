"""Speculative decoding without a draft model: guesses of the next tokens from texts that are at hand.

`Drafter` makes drafts and learns which are accepted. The scheduler adds their rows to a step, and
`verification` keeps the tokens up to the first that differs from its draft.
"""
