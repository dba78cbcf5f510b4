"""The runner process: one operating-system process around one engine."""
