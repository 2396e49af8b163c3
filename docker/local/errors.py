"""What can go wrong on the host, each with its remedy."""


class LocalError(Exception):
    """Something the user can put right; the message says how."""
