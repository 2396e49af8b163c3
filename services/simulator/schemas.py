"""What the simulator reads of a request to the Messages API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field


def _text_of(content: Any) -> Any:
    """The text of content that is a list of blocks; other kinds of blocks say nothing here."""
    if not isinstance(content, list):
        return content
    return "\n".join(
        block["text"]
        for block in content
        if isinstance(block, dict) and isinstance(block.get("text"), str)
    )


Text = Annotated[str, BeforeValidator(_text_of)]


class Message(BaseModel):
    """One turn of the conversation."""

    role: Literal["user", "assistant"]
    content: Text


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
    system: Text = ""
    output_config: OutputConfig = OutputConfig()

    @property
    def prompt(self) -> str:
        """Everything that the user turns say."""
        return "\n\n".join(turn.content for turn in self.messages if turn.role == "user")

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema that the answer must fit, if any."""
        return self.output_config.format.json_schema if self.output_config.format else None


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages, as far as the simulator heeds it."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[str] = []
    metadata: Metadata = Metadata()
