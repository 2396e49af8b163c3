"""What happens around every request: plain ASGI, so that streams stay streams."""
