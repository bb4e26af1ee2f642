"""From a prompt to pixels, sound or words."""
