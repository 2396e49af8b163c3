"""Settings: one model per area, read from the environment and from secret files."""
