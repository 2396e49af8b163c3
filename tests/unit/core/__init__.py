"""Core, without a socket."""
