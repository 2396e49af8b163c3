"""What the simulator reads of a request to the Messages API."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

MAX_MARKS = 4


class CacheControl(BaseModel):
    """A mark: the prompt up to here is to be kept for later requests."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class Block(BaseModel):
    """A piece of content."""

    text: str = ""
    """Of other kinds of blocks there is none: they say nothing here."""
    cache_control: CacheControl | None = None


def _as_blocks(content: Any) -> Any:
    if isinstance(content, str):
        return [{"text": content}]
    if not isinstance(content, list):
        return content
    return [_text_only(block) if isinstance(block, dict) else block for block in content]


def _text_only(block: dict[str, Any]) -> dict[str, Any]:
    text = block.get("text")
    return {
        "text": text if isinstance(text, str) else "",
        "cache_control": block.get("cache_control"),
    }


Content = Annotated[list[Block], BeforeValidator(_as_blocks)]


class Message(BaseModel):
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    content: Content

    @property
    def text(self) -> str:
        """What it says."""
        return "\n".join(block.text for block in self.content if block.text)


class JsonFormat(BaseModel):
    """The schema that the answer must fit."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """How the answer is to look."""

    format: JsonFormat | None = None


class Metadata(BaseModel):
    """Whom the request is for."""

    user_id: str | None = None


class CountTokensRequest(BaseModel):
    """The body of POST /v1/messages/count_tokens."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    system: Content = []
    output_config: OutputConfig = OutputConfig()
    cache_control: CacheControl | None = None
    """Marks the last block."""

    @property
    def prompt(self) -> str:
        """Everything that the user turns say."""
        return "\n\n".join(turn.text for turn in self.messages if turn.role == "user")

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema that the answer must fit, if any."""
        return self.output_config.format.json_schema if self.output_config.format else None

    @property
    def blocks(self) -> list[Block]:
        """All content in the order in which Claude reads it."""
        return [*self.system, *(block for turn in self.messages for block in turn.content)]

    @model_validator(mode="after")
    def _mark_as_the_api_allows(self) -> Self:
        marked = [block for block in self.blocks if block.cache_control]
        count = len(marked) + (self.cache_control is not None)
        if count > MAX_MARKS:
            raise ValueError(
                f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {count}."
            )
        if not all(block.text for block in marked):
            raise ValueError("cache_control cannot be set for empty text blocks")
        times = [block.cache_control.ttl for block in marked if block.cache_control]
        if times != sorted(times):  # "1h" sorts before "5m"
            raise ValueError("a ttl='1h' cache_control block must not come after a ttl='5m' one")
        return self


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages, as far as the simulator heeds it."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[str] = []
    metadata: Metadata = Metadata()
