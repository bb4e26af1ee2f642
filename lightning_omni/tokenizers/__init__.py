"""Tokenizers, one file per modality: media to codes and back."""
