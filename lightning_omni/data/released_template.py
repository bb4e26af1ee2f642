"""The chat template and the task prompts of the Omni-Diffusion release.

A turn is `<|im_start|>{role}`, a line feed, its content, `<|im_end|>` and a line feed; parts of a
content stand on lines of their own. Text between special tokens is encoded as one string. Unlike
in our own template the end of an answer is predicted: the end of a text's or a sound's turn stands
in the hole, and tail pads behind it. An image's end is given, as its length is known.

A user's speech is features of an encoder at context tokens, as in the release, where the data has
them, and codes where it has none.

Of the release it differs in this: the parts of an answer are a chain; a caption's request, which
the release takes from the data, is written here.

Source: Omni-Diffusion, arXiv:2603.06577, and its released code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random

from lightning_omni.data.template import Builder, Hole, Template
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Sample, Turn

CONTEXT = "<|context_of_audio|>"
"""Stands for a frame of what an encoder heard."""


class ReleasedTemplate(Template):
    """Turns samples into sequences as the release lays them out; arguments are those of `Template`.

    A text that is followed by another text, which the release has not, ends with a pad.
    """

    def ending(self, parts: tuple[Part, ...], part: int) -> tuple[str, list[int]]:
        """The end of the turn, or what leads to the next part; an image's end is given."""
        modality, rest = parts[part].modality, parts[part + 1 :]
        if modality == "image":
            return "", []
        if modality == "speech":
            return "", [self.vocab.special("<|end_of_speech|>"), *self._end_of_turn()]
        if not rest:
            return "", self._end_of_turn()
        is_spoken = rest[0].modality == "speech"
        end = self.vocab.special("<|begin_of_speech|>") if is_spoken else self.vocab.pad_token_id
        return "\n", [end]

    def answer_text(self, ids: list[int]) -> str:
        """Text of an answer without the line feed before the next part."""
        return super().answer_text(ids).removesuffix("\n")

    def _before(
        self, out: Builder, sample: Sample, turn: int, part: int, drop: Collection[str]
    ) -> None:
        task = task_named(sample.task)
        if task.released_system:
            self._turn(out, sample, Turn("system", (Part("text", text=task.released_system),)))
        for i, earlier in enumerate(sample.turns[:turn]):
            if earlier.role == "assistant":
                self._turn(out, sample, earlier)
                continue
            asked = tuple(p for p in earlier.parts if p.modality not in drop)
            instruction = task.released_instruction if i == 0 else ""
            before = f"{instruction}\n" if instruction else ""
            self._turn(out, sample, Turn(earlier.role, asked), before=before)
        self._open(out, "assistant")
        given = [p for p in sample.turns[turn].parts[:part] if not _is_dropped(p, drop)]
        self._write(out, sample, given, after="\n" if given else "")

    def _turn(self, out: Builder, sample: Sample, turn: Turn, *, before: str = "") -> None:
        self._open(out, turn.role)
        self._write(out, sample, list(turn.parts), before=before)
        self._close(out)

    def _write(
        self, out: Builder, sample: Sample, parts: list[Part], *, before: str = "", after: str = ""
    ) -> None:
        """Write given parts, each on a line of its own, the text between media as one string."""
        waiting = before
        for i, part in enumerate(parts):
            waiting += "\n" if i else ""
            if part.modality == "text":
                waiting += part.text or ""
                continue
            out.add(self.text.encode(waiting))
            waiting = ""
            self._bracket(out, "begin", part.modality)
            if part.features is None:
                ids = self.vocab.to_ids(part.modality, self._codes(part, sample))
                out.add(ids, grid=self._grid(part.modality, len(ids)))
            else:
                out.features.append((len(out.ids), part.features))
                out.add([self.vocab.special(CONTEXT)] * len(part.features))
            self._bracket(out, "end", part.modality)
        out.add(self.text.encode(waiting + after))

    def _open(self, out: Builder, role: str) -> None:
        out.add([self.vocab.special("<|im_start|>")])
        out.add(self.text.encode(role))
        out.add(self.text.encode("\n"))

    def _close(self, out: Builder) -> None:
        out.add(self._end_of_turn())

    def _end_of_turn(self) -> list[int]:
        return [self.vocab.special("<|im_end|>"), *self.text.encode("\n")]

    def _hole(self, out: Builder, modality: str, length: int, given: Mapping[int, int]) -> Hole:
        """Write a hole of masks, which for text and speech reaches to the end."""
        if modality == "image":
            return super()._hole(out, modality, length, given)
        self._bracket(out, "begin", modality)
        ids = [given.get(i, self.vocab.mask_token_id) for i in range(length)]
        hole = Hole(modality, len(out.ids), len(out.ids) + length)
        index = self.vocab.modalities.index(modality)
        out.add(ids, grid=self._grid(modality, length), answer_of=index)
        return hole

    def _answer(self, out: Builder, parts: tuple[Part, ...], part: int, rng: Random) -> None:
        modality = parts[part].modality
        if modality == "image":
            super()._answer(out, parts, part, rng)
            return
        pads = self._tail_pads(modality, rng)
        ids = self.hole_ids(parts, part) + [self.vocab.pad_token_id] * pads
        self._bracket(out, "begin", modality)
        index = self.vocab.modalities.index(modality)
        out.add(ids, grid=self._grid(modality, len(ids)), answer_of=index, tail_pads=pads)


def _is_dropped(part: Part, drop: Collection[str]) -> bool:
    return "speech" in drop and part.is_transcript
