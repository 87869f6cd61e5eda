"""Neural architecture search under measured latency: from images to a verified engine."""

__version__ = "0.1.0"
