"""Tokenization, incremental detokenization and stop strings. Independent of HTTP and engines."""
