"""The joint model's data: encoded task shards, mixed, rendered and packed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_omni.data.encode import ensure_codes, load_features
from lightning_omni.data.packing import pack
from lightning_omni.data.resumable import ResumableData
from lightning_omni.data.shards import SampleStream, mixture, read_manifest, read_samples
from lightning_omni.data.template import Template
from lightning_omni.data.templates import check_hears, make_template
from lightning_omni.data.transcripts import check_transcribed, with_transcript
from lightning_omni.diffusion.noise import complement_of
from lightning_omni.errors import OmniError, check_within
from lightning_omni.pretrained import locate
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech_features import ContinuousSpeech
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer
from lightning_omni.types import SPLITS, Batch, Sample, Sequence
from lightning_omni.vocab import SpecialTokensName, Vocab


class PackedMixture(IterableDataset[Batch]):
    """An endless stream of packed training batches, a function of the seed alone.

    Visit v is the v-th sample of the mixture over all ranks; this rank renders the visits that are
    its own. A resumed run passes the batches it has already used as `first_batch` and continues
    with the sample that an unbroken one would have seen.
    """

    def __init__(
        self,
        folder: Path,
        template: Template,
        options: OmniData,
        *,
        rank: int,
        world_size: int,
        first_batch: int,
    ) -> None:
        self.folder, self.template, self.options = folder, template, options
        self.rank, self.world_size, self.first_batch = rank, world_size, first_batch

    def __iter__(self) -> Iterator[Batch]:
        """Serve batches from `first_batch` on."""
        batches = pack(
            self._visits(),
            rows=self.options.rows,
            row_length=self.options.row_length,
            pad_token_id=self.template.vocab.pad_token_id,
        )
        return islice(batches, self.first_batch, None)

    def _visits(self) -> Iterator[tuple[int, Sequence]]:
        options = self.options
        streams = {
            task: SampleStream(self.folder, task, "train", seed=options.seed)
            for task in options.tasks
        }
        for visit, task in enumerate(mixture(options.tasks)):
            if visit % self.world_size != self.rank:
                streams[task].skip(1)
                continue
            rng = Random(f"{options.seed}-{visit}")
            sample = options.chained(next(streams[task]))
            drop = options.dropped(sample, rng)
            sequence = self.template.render(sample, rng=rng, drop=drop)
            yield visit, sequence
            if options.complementary:
                yield complement_of(visit), sequence


class OmniData(ResumableData):
    """Data of the three joint stages.

    Args:
        data: Folder written by `make prep-data`.
        image_tokenizer: Exported folder of the image tokenizer, or several in order of preference;
            `shipped` is the package's own.
        speech_tokenizer: The same of the speech tokenizer.
        vocab: Ids per span in order, `{text: ..., speech: ..., image: ...}`; checked against the
            tokenizers.
        tasks: Share of each task among the training samples; need not sum to one.
        rows: Rows of a batch, B.
        row_length: Tokens of a row, L.
        max_tail_pads: See `Template`.
        condition_dropout: Probability that a sample is seen without its condition.
        modality_dropout: Probability that a sample whose request has several modalities is seen
            without one of them, for guidance with a scale for each.
        complementary: Show every training sample twice, masked where its first showing is visible,
            so that each of its tokens is predicted once (LaViDa, arXiv:2505.16839, section 3.2).
        val_samples: Validation samples per task, and test samples of the verb `test`.
        seed: Of order, pads and dropout.
        transcribe_first: Tasks whose spoken request is written down before it is answered.
        text_ranks: Text ranks; None for those that ship with the package, `qwen` for Qwen's, which
            the package `dashscope` holds.
        test_split: Split that the verb `test` measures.
        special_tokens: `own`, or `released` for those of the Omni-Diffusion release; the chat
            template that places them comes with them.
        continuous_speech: How a user's speech is heard as features in place of codes; needs the
            released special tokens, and `continuous_dim` in the backbone. None for codes.
    """

    def __init__(
        self,
        data: str,
        image_tokenizer: str | list[str],
        speech_tokenizer: str | list[str],
        vocab: dict[str, int],
        tasks: dict[str, float],
        rows: int,
        row_length: int,
        max_tail_pads: dict[str, int],
        condition_dropout: float,
        val_samples: int,
        seed: int,
        complementary: bool = False,
        modality_dropout: float = 0.0,
        transcribe_first: list[str] | None = None,
        text_ranks: str | None = None,
        test_split: str = "test_iid",
        special_tokens: SpecialTokensName = "own",
        continuous_speech: ContinuousSpeech | None = None,
    ) -> None:
        super().__init__()
        for task, share in tasks.items():
            task_named(task)
            check_within(f"data.tasks.{task}", share, 0)
        if not any(tasks.values()):
            raise OmniError("data.tasks gives no task a share; name at least one, such as t2i: 1")
        Vocab.of_sizes(vocab, special_tokens)
        check_hears(special_tokens, continuous_speech)
        check_within("data.rows", rows, 1)
        check_within("data.row_length", row_length, 1)
        check_within("data.condition_dropout", condition_dropout, 0, 1)
        check_within("data.modality_dropout", modality_dropout, 0, 1 - condition_dropout)
        check_within("data.val_samples", val_samples, 0)
        for modality, pads in max_tail_pads.items():
            check_within(f"data.max_tail_pads.{modality}", pads, 0)
        if test_split not in SPLITS:
            raise OmniError(f"data.test_split is '{test_split}', wanted one of {', '.join(SPLITS)}")
        self.test_split = test_split
        self.transcribe_first = transcribe_first or []
        check_transcribed(self.transcribe_first)
        self.data, self.seed = Path(data), seed
        self.image_tokenizer = locate(image_tokenizer, "image_tokenizer")
        self.speech_tokenizer = locate(speech_tokenizer, "speech_tokenizer")
        self.special_tokens, self.continuous_speech = special_tokens, continuous_speech
        self.vocab, self.tasks = vocab, {k: w for k, w in tasks.items() if w > 0}
        self.rows, self.row_length = rows, row_length
        self.max_tail_pads, self.condition_dropout = max_tail_pads, condition_dropout
        self.complementary, self.modality_dropout = complementary, modality_dropout
        self.val_samples, self.text_ranks = val_samples, text_ranks

    def prepare_data(self) -> None:
        """Encode the media once, on one process."""
        self._folder()

    def setup(self, stage: str) -> None:
        """Check that recipe, tokenizers and shards agree on the vocabulary."""
        folder = self._folder()
        manifest = read_manifest(folder)
        spans = {k: v for k, v in self.vocab.items() if k != "text"}
        if spans != manifest["spans"]:
            raise OmniError(
                f"the vocab has spans {spans} but the tokenizers have {manifest['spans']}; "
                "set data.vocab to the tokenizers' sizes"
            )
        text = TextTokenizer(self.text_ranks or DEFAULT_RANKS)
        vocab = Vocab.of_sizes(self.vocab, self.special_tokens)
        self.template = make_template(
            vocab,
            text,
            image_columns=manifest["image_columns"],
            codebooks=manifest["codebooks"],
            max_tail_pads=self.max_tail_pads,
        )
        self.folder, self.manifest = folder, manifest

    def samples(self, task: str, split: str, *, limit: int | None = None) -> list[Sample]:
        """First encoded samples of a task, or all of them, as training sees them."""
        return [self.chained(s) for s in read_samples(self.folder, task, split, limit=limit)]

    def chained(self, sample: Sample) -> Sample:
        """Begin the answer with a transcript if the sample's task is one to transcribe."""
        return with_transcript(sample) if sample.task in self.transcribe_first else sample

    def dropped(self, sample: Sample, rng: Random) -> tuple[str, ...]:
        """Modalities of a training sample's request that are left out this time."""
        asked = {p.modality: None for t in sample.turns if t.role == "user" for p in t.parts}
        chance = rng.random()
        if chance < self.condition_dropout:
            return tuple(asked)
        if len(asked) > 1 and chance < self.condition_dropout + self.modality_dropout:
            return (rng.choice(list(asked)),)
        return ()

    def check_heard(self, *, has_projector: bool) -> None:
        """Refuse a network with a projector where speech is asked about and given as codes.

        Raises:
            OmniError: If so.
        """
        asking = [task for task in self.tasks if "speech" in task_named(task).inputs]
        if has_projector and asking and self.continuous_speech is None:
            raise OmniError(
                f"the backbone has a projector for continuous speech, but {asking[0]} would be "
                "heard as codes; give data.continuous_speech, or leave continuous_dim out"
            )

    def code_features(self) -> dict[str, Tensor]:
        """Features of each modality's codes, for `Transformer`'s embeddings."""
        return load_features(self.folder)

    def bound_units(self) -> dict[str, dict[str, float]]:
        """Other units of a bound, by modality: what nats per code are to be multiplied by."""
        side = ImageTokenizer.from_pretrained(self.image_tokenizer).image_size
        codes = self.manifest["image_columns"] ** 2
        return {
            "image": {"bits_per_dimension": codes / (3 * side**2) / math.log(2)},
            "speech": {"bits_per_second": self.manifest["tokens_per_second"] / math.log(2)},
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless packed batches; end training with max_steps or max_time."""
        stream = PackedMixture(self.folder, self.template, self, **self.place)
        return DataLoader(stream, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The same packed batches of the validation split each time."""
        return self._fixed("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The same of the test split, for `lightning_omni test`."""
        return self._fixed(self.test_split)

    def _fixed(self, split: str) -> DataLoader[Batch]:
        batches = list(
            pack(
                self._in_order(split),
                rows=self.rows,
                row_length=self.row_length,
                pad_token_id=self.template.vocab.pad_token_id,
            )
        )
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def _in_order(self, split: str) -> Iterator[tuple[int, Sequence]]:
        visit = 0
        for task in self.tasks:
            for sample in self.samples(task, split, limit=self.val_samples):
                yield visit, self.template.render(sample, rng=Random(f"{split}-{visit}"))
                visit += 1

    def _folder(self) -> Path:
        return ensure_codes(
            self.data,
            image_tokenizer=self.image_tokenizer,
            speech_tokenizer=self.speech_tokenizer,
            continuous_speech=self.continuous_speech,
        )
