"""Text to token ids and back, incrementally. Knows neither HTTP nor engines."""
