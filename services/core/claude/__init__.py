"""Asking Claude: what steps see of it, and the SDK behind that."""
