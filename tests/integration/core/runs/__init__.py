"""The record on a real PostgreSQL."""
