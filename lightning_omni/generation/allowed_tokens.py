"""The ids that each position of a response may hold."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.modalities import TEXT, modality_named
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab


class AllowedTokens:
    """Ids that each position of a response may hold, as sets that positions refer to.

    Set 0 is text and its terminators; sets 1 and 2 are for positions of a text at which no answer
    ends: text that is more than white space, and such text after a space. Every other modality has
    one set for each codebook, with its terminators, and then one for each without. So an image is
    always exactly its codes, and a speech code always has its own codebook.
    """

    def __init__(
        self, vocab: Vocab, tokenizer: TextTokenizer, codebooks: int, *, device: torch.device
    ) -> None:
        def sorted_ids(start: int, size: int, *extra: int) -> Tensor:
            return torch.tensor([*extra, *range(start, start + size)], device=device).sort().values

        text = vocab.span(TEXT)
        sets = [sorted_ids(text.start, text.size, *vocab.end_ids(TEXT))]
        for after_space in (False, True):
            tokens = tokenizer.visible_ids(after_space=after_space)
            sets.append(text.start + torch.tensor(tokens, device=device))
        self._codes: dict[str, tuple[int, int]] = {}
        for name in vocab.modalities[1:]:
            span, modality = vocab.span(name), modality_named(name)
            frame = modality.frame_size({"codebooks": codebooks})
            size = span.size // frame
            starts = [span.start + q * size for q in range(frame)]
            self._codes[name] = len(sets), frame
            for q, start in enumerate(starts):
                ends = vocab.end_ids(name) if q == 0 else (vocab.pad_token_id,)
                sets.append(sorted_ids(start, size, *ends))
            sets += [sorted_ids(start, size) for start in starts]
        self.allowed = tuple(sets)

    def allowed_set_indices(self, modality: str, span: ResponseSpan) -> list[int]:
        """Return the index of the set that each position of a response refers to."""
        if modality_named(modality).is_text:
            return [(i in span.no_end) + (i in span.after_space) for i in range(span.length)]
        first, frame = self._codes[modality]
        return [first + i % frame + frame * (i in span.no_end) for i in range(span.length)]
