"""Penstock's containers (one folder each), and what they share: pipelines and core."""

__version__ = "0.1.0"
