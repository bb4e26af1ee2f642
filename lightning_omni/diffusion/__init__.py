"""The mathematics of masked diffusion: tensors in, tensors out."""
