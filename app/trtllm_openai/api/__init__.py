"""HTTP routes, one module a family, and the one error contract."""
