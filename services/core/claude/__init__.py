"""Asking Claude: what steps see of it, and the SDK behind that."""

from services.core.claude import sdk_import

sdk_import.install()
