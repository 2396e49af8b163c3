"""What Claude is asked for records."""

from services.pipelines.prompts import Prompts

PROMPTS = Prompts(__name__)
