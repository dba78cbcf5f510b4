"""The commands other than `serve` and `bench`, a module each."""
