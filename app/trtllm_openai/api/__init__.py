"""HTTP routes, one module per endpoint family, and the error contract that they share."""
