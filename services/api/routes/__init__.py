"""One file per noun; paths are written in full, so that a search finds them."""
