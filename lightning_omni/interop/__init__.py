"""Published checkpoints: read from disk and converted to our conventions."""

from lightning_omni.interop.backbone import Backbone, load_backbone
from lightning_omni.interop.image_tokenizer import PublishedImageTokenizer, load_image_tokenizer

__all__ = ["Backbone", "PublishedImageTokenizer", "load_backbone", "load_image_tokenizer"]
