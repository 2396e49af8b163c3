"""The pipelines, and what one is made of."""
