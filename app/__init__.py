"""The service: raw features in over HTTP, click probabilities out."""

__version__ = "0.1.0"
