"""Which nodes there are, and which users they host."""
