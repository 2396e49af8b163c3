"""Extracts records that fit a schema of the caller from pages and texts."""
