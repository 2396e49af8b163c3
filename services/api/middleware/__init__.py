"""What happens around every request: one file each, plain ASGI, so that streams stay streams."""
