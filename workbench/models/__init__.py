"""Plain objects folded from events and files. No Textual, no threads."""
