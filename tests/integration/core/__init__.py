"""What core does on real servers."""
