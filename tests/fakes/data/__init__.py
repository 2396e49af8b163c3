"""Real-looking templates, pages and feeds; everybody in them is made up."""

from importlib.resources import files


def read_data(name: str) -> str:
    """The text of one of the files here."""
    return files(__name__).joinpath(name).read_text("utf-8")
