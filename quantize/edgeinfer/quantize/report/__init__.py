"""What a search found: the document that `--json` prints and packages carry, a table for a terminal, a page."""
