"""The Compose stack as a whole, in real containers."""
