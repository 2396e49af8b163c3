"""What Claude is asked for a summary."""

from services.pipelines.prompts import Prompts

PROMPTS = Prompts(__name__)
