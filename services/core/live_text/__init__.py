"""The text of answers that are being written: from workers to those who watch, through Redis."""
