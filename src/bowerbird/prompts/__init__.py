"""From what a person asks to what a model reads."""
