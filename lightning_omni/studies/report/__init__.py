"""Show a whole run on one page."""
