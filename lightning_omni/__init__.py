"""Any-to-any masked diffusion over text, speech and image tokens."""

__version__ = "0.1.0"
