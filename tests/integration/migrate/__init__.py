"""Migrations on a real PostgreSQL."""
