"""The ModelRunner: one operating-system process around one engine."""
