"""Writes outreach emails from a template and the web."""
