"""Speed against a `transformers` model, other data readers and the machine's own limits."""
