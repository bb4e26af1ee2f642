"""Neural network building blocks in plain torch: the transformer, its adapters and the codecs.

Nothing here imports diffusion, data or Lightning.
"""
