"""What Claude is asked for an email."""

from services.pipelines.prompts import Prompts

PROMPTS = Prompts(__name__)
