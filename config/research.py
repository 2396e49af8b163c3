"""What the research step may read."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from config.sources import Settings, TextList


class ResearchSettings(Settings):
    """Bounds on reading sources from the web."""

    model_config = SettingsConfigDict(env_prefix="RESEARCH_")

    arxiv_url: str = "https://export.arxiv.org/api/query"
    """The arXiv API's query address."""
    timeout_s: float = Field(default=20, gt=0)
    """Seconds that one source may take, redirects included."""
    max_page_bytes: int = Field(default=2_000_000, ge=1024)
    """Largest source that is read, in bytes after decompression."""
    allowed_private_hosts: TextList = ()
    """List of host:port that may be read although they are private, such as an internal wiki."""
