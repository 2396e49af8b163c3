"""Summarizes documents, each by itself and all together."""
