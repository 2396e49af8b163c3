"""What goes into an outreach email, what each step finds, and what comes out."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, EmailStr, Field, HttpUrl


class TemplateType(StrEnum):
    """What the email is about."""

    RESEARCH = "research"
    BOOK = "book"
    GENERAL = "general"
