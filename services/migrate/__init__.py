"""Brings the database up to date, once per deployment."""
