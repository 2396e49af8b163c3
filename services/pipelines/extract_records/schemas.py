"""What is to be extracted and from what, what goes from step to step, and what comes out."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.pipelines.extract_records.record_schema import RecordSchema, SchemaProblemError
from services.pipelines.fields import TEXT_PATTERN, SourceUrl
from services.pipelines.sources import SourceStatus

MAX_SOURCES = 20
MAX_TEXT_CHARS = 200_000


def _usable_schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        RecordSchema(schema)
    except SchemaProblemError as error:
        raise PydanticCustomError("schema", "{reason}", {"reason": str(error)}) from error
    return schema


UsableSchema = Annotated[dict[str, Any], AfterValidator(_usable_schema)]
Text = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=MAX_TEXT_CHARS, pattern=TEXT_PATTERN
    ),
]
Instructions = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=2000, pattern=TEXT_PATTERN)
]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # `schema` is a method of BaseModel, so the field is called otherwise in code.
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class ExtractInput(_Model):
    """Records to extract from pages and texts; at least one of these."""

    record_schema: UsableSchema = Field(alias="schema")
    """The JSON Schema of one record: an object. Lists, objects, anyOf and #/$defs/… may be within."""
    urls: tuple[SourceUrl, ...] = Field(default=(), max_length=MAX_SOURCES)
    """Web pages, at most 20, http or https. Private addresses are refused."""
    texts: tuple[Text, ...] = Field(default=(), max_length=MAX_SOURCES)
    """At most 20, each of at most 200,000 characters."""
    instructions: Instructions = ""
    """What a record is and what matters, such as `Only events that are still to come.`"""

    @model_validator(mode="after")
    def _with_sources(self) -> Self:
        if not self.urls and not self.texts:
            raise PydanticCustomError("no_sources", "Give at least one of urls and texts.")
        return self


class Source(_Model):
    """A page or a text: urls are numbered first, then texts."""

    id: int
    url: str | None
    title: str | None = None
    status: SourceStatus
    reason: str | None = None
    is_cut: bool = False
    text: str = ""


class Sources(_Model):
    """What read_sources gives: the input and what was read."""

    record_schema: dict[str, Any]
    instructions: str
    sources: tuple[Source, ...]


class ExtractedRecord(_Model):
    """A record that fits the schema, and where it is from."""

    source_id: int
    record: dict[str, Any]


class RejectedRecord(_Model):
    """A record that does not fit the schema, even after Claude was told twice."""

    source_id: int
    record: dict[str, Any]
    errors: tuple[str, ...]
    """Each `/place: reason`."""


class SourceNote(_Model):
    """A source as the output shows it."""

    id: int
    """1, 2, 3 …: urls first, then texts, as given."""
    url: str | None
    """None where the text was given."""
    title: str | None
    status: SourceStatus
    """`found`, `not_found` (refused, absent or without text) or `unreachable` (it did not answer)."""
    reason: str | None
    """Why it was not found."""
    is_cut: bool
    """The page was longer than what is read of it."""
    records: int
    """How many records of it are in the output."""


class ExtractedRecords(_Model):
    """The records, those that do not fit, and the sources."""

    records: tuple[ExtractedRecord, ...]
    """Each fits the schema; in the order of the sources."""
    rejected: tuple[RejectedRecord, ...]
    sources: tuple[SourceNote, ...]
    simulated: bool
    """True if the simulator answered, not Claude."""
    model: str
