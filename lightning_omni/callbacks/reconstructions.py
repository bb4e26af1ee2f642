"""Log reconstructions of a tokenizer in training beside the originals."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from lightning_omni.callbacks.tensorboard_media import MediaLog
from lightning_omni.data.media import tensor_to_image
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule


class Reconstructions(L.Callback):
    """Logs the first validation pictures or recordings with their reconstructions.

    Pictures appear as `reconstructions/real_then_decoded`, recordings as
    `reconstructions/<number>_real` and `_decoded`, and as spectrograms, the original
    above, in `reconstructions/<number>_spectrograms`.

    Args:
        num_samples: number of pictures or recordings.
    """

    def __init__(self, num_samples: int = 4) -> None:
        self.num_samples = num_samples

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encode and decode the same samples after each validation."""
        loader = trainer.val_dataloaders
        if not trainer.is_global_zero or loader is None:
            return
        batch: Tensor = next(iter(loader))[: self.num_samples].to(pl_module.device)
        media, was_training = MediaLog(trainer), pl_module.training
        pl_module.eval()
        with torch.no_grad():
            if isinstance(pl_module, ImageTokenizerModule):
                _log_picture_reconstructions(media, pl_module, batch)
            elif isinstance(pl_module, SpeechTokenizerModule):
                _log_sound_reconstructions(media, pl_module, batch)
        pl_module.train(was_training)


def _log_picture_reconstructions(
    media: MediaLog, module: ImageTokenizerModule, pixels: Tensor
) -> None:
    tokenizer = module.tokenizer
    rows = pixels.shape[-2] // tokenizer.downsample_factor
    decoded = tokenizer.decode(tokenizer.encode(pixels), rows=rows)
    pairs = [image for pair in zip(pixels, decoded, strict=True) for image in pair]
    media.write_images(
        "reconstructions/real_then_decoded", [tensor_to_image(image) for image in pairs]
    )


def _log_sound_reconstructions(
    media: MediaLog, module: SpeechTokenizerModule, wave: Tensor
) -> None:
    tokenizer = module.tokenizer
    rate = tokenizer.sample_rate
    decoded = tokenizer.decode(tokenizer.encode(wave, sample_rate=rate))
    for i, (real, ours) in enumerate(zip(wave, decoded, strict=True)):
        pair = [real.cpu(), ours.float().cpu()]
        media.write_audio(f"reconstructions/{i}_real", pair[0], rate)
        media.write_audio(f"reconstructions/{i}_decoded", pair[1], rate)
        media.write_spectrograms(f"reconstructions/{i}_spectrograms", pair, rate)
