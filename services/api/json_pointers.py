"""JSON Pointers (RFC 6901), and the dotted names that are easier to write in a table's head."""


def parse_field(name: str) -> tuple[str, ...] | None:
    """The path that a pointer (`/recipient/name`) or a dotted name (`recipient.name`) means; None if it means none."""
    if name.startswith("/"):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in name[1:].split("/")]
    else:
        parts = name.split(".")
    return tuple(parts) if all(parts) else None
