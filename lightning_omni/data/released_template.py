"""The chat template and the task prompts of the Omni-Diffusion release.

A turn is `<|im_start|>{role}`, a line feed, its content, `<|im_end|>` and a line feed; the parts of
a content stand on lines of their own. Text between special tokens is encoded as one string. Unlike
in the native template the end of an answer is predicted: the end of the turn of a text or speech
answer belongs to the response, followed by tail pads. The end of an image is given, as its length
is known.

A user's speech is continuous features at context tokens, as in the release, where the data has
features, and speech codes elsewhere.

Differences from the release: the parts of an answer are a chain, and the request of a caption,
which the release takes from the data, is written by the template.

Source: Omni-Diffusion, arXiv:2603.06577, and its released code.
"""

from __future__ import annotations

from collections.abc import Collection

from lightning_omni.data.sequence_builder import SequenceBuilder
from lightning_omni.data.template import Template, encode_fixed_text, is_dropped
from lightning_omni.modalities import SPEECH, modality_named
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn

CONTEXT = "<|context_of_audio|>"
"""Token whose embedding is replaced by a frame of continuous speech features."""


class ReleasedTemplate(Template):
    """Renders samples as the release lays them out; arguments are those of `Template`.

    A text that is followed by another text, which the release does not have, ends with a pad.
    """

    def answer_ending(self, parts: tuple[Part, ...], part: int) -> tuple[str, list[int]]:
        """Return the end of the turn, or what leads to the next part; an image's end is given."""
        modality, rest = modality_named(parts[part].modality), parts[part + 1 :]
        if modality.terminator is None:
            return "", []
        if not modality.is_text:
            return "", [self.vocab.special_id(modality.terminator), *self._end_of_turn_ids()]
        if not rest:
            return "", self._end_of_turn_ids()
        begins = rest[0].modality == SPEECH
        end = self.vocab.special_id("<|begin_of_speech|>") if begins else self.vocab.pad_token_id
        return "\n", [end]

    def decode_answer_text(self, ids: list[int]) -> str:
        """Return the text of an answer without the line feed before the next part."""
        return super().decode_answer_text(ids).removesuffix("\n")

    def _write_context(
        self, out: SequenceBuilder, sample: Sample, turn: int, part: int, drop: Collection[str]
    ) -> None:
        task = task_named(sample.task)
        if task.released_system:
            self._write_turn(out, sample, Turn("system", ()), before=task.released_system)
        for i, earlier in enumerate(sample.turns[:turn]):
            if earlier.role == "assistant":
                self._write_turn(out, sample, earlier)
                continue
            kept = tuple(p for p in earlier.parts if p.modality not in drop)
            instruction = task.released_instruction if i == 0 else ""
            before = f"{instruction}\n" if instruction else ""
            self._write_turn(out, sample, Turn(earlier.role, kept), before=before)
        self._open_turn(out, "assistant")
        context = [p for p in sample.turns[turn].parts[:part] if not is_dropped(p, drop)]
        self._write_parts(out, sample, context, after="\n" if context else "")

    def _write_turn(
        self, out: SequenceBuilder, sample: Sample, turn: Turn, *, before: str = ""
    ) -> None:
        self._open_turn(out, turn.role)
        is_user = turn.role == "user"
        self._write_parts(out, sample, list(turn.parts), before=before, in_request=is_user)
        self._close_turn(out)

    def _write_parts(
        self,
        out: SequenceBuilder,
        sample: Sample,
        parts: list[Part],
        *,
        before: str = "",
        after: str = "",
        in_request: bool = False,
    ) -> None:
        """Write parts, each on a line of its own, the text between media as one string."""
        text, is_fixed = before, True
        for i, part in enumerate(parts):
            text += "\n" if i else ""
            if modality_named(part.modality).is_text:
                text, is_fixed = text + (part.text or ""), False
                continue
            self._write_text(out, text, is_fixed=is_fixed)
            text, is_fixed = "", True
            self._write_bracket(out, "begin", part.modality)
            if part.features is None:
                ids = self._code_ids(part, sample)
                if in_request:
                    self._write_request_codes(out, part, ids, sample)
                else:
                    out.append_ids(ids, grid=self._grid_positions(part.modality, len(ids)))
            else:
                out.features.append((out.length, part.features))
                out.append_ids([self.vocab.special_id(CONTEXT)] * len(part.features))
            self._write_bracket(out, "end", part.modality)
        self._write_text(out, text + after, is_fixed=is_fixed)

    def _write_text(self, out: SequenceBuilder, text: str, *, is_fixed: bool) -> None:
        """Write a text, which is fixed if it holds nothing of the sample."""
        out.append_ids(encode_fixed_text(self.text, text) if is_fixed else self.text.encode(text))

    def _open_turn(self, out: SequenceBuilder, role: str) -> None:
        begin = self.vocab.special_id("<|im_start|>")
        out.append_ids(
            [begin, *encode_fixed_text(self.text, role), *encode_fixed_text(self.text, "\n")]
        )

    def _close_turn(self, out: SequenceBuilder) -> None:
        out.append_ids(self._end_of_turn_ids())

    def _end_of_turn_ids(self) -> list[int]:
        return [self.vocab.special_id("<|im_end|>"), *encode_fixed_text(self.text, "\n")]

    def _close_response(self, out: SequenceBuilder, modality: str) -> None:
        """Close the turn of an image; other responses hold the end of their turn."""
        if modality_named(modality).has_fixed_length:
            super()._close_response(out, modality)
