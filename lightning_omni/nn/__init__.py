"""Plain torch blocks: they know no medium, no diffusion and no Lightning."""
