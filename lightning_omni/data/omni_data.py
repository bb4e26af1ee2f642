"""The joint model's data: encoded task shards, mixed, rendered and packed."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from lightning_omni.argument_checks import check_within
from lightning_omni.data.encoding.code_features import load_code_features
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.fixed_batches import make_fixed_loader
from lightning_omni.data.lanes import LaneLoader, Position
from lightning_omni.data.longest_samples import check_longest_samples
from lightning_omni.data.make_template import check_continuous_speech, make_template
from lightning_omni.data.manifest import manifest_digest, read_manifest
from lightning_omni.data.mixture import Mixture, PackedLanes
from lightning_omni.data.packing import pack_stream
from lightning_omni.data.resumable_data import LANES, ResumableData
from lightning_omni.data.sample_counts import Counts, TaskCounter
from lightning_omni.data.shards import read_samples
from lightning_omni.data.storage.locations import Location, parse_recorded_location
from lightning_omni.data.transcripts import check_transcript_tasks, with_transcript
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SPEECH, TEXT
from lightning_omni.pretrained import resolve_pretrained
from lightning_omni.tasks import TASK_NAMES, task_named
from lightning_omni.tokenizers.image import ImageTokenizer
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.tokenizers.text import (
    DEFAULT_RANKS,
    RANKS_FILE,
    TextTokenizer,
    check_same_text_ids,
)
from lightning_omni.types import SPLITS, Batch, Sample, TokenSequence
from lightning_omni.vocab import SpecialTokensName, Vocab, canonical_special_tokens

log = logging.getLogger(__name__)

BATCHES_PER_MESSAGE = 4
TOKENS_PER_MESSAGE = 16_384
"""Most batches and tokens that a worker sends at a time: few enough to wait for at the start."""


class OmniData(ResumableData):
    """Data of the three joint stages.

    Args:
        data: Folder written by `make prep-data`, or URL of one that is encoded.
        image_tokenizer: Exported folder of the image tokenizer, or several in order of preference;
            `bundled` is the package's own.
        speech_tokenizer: The same for the speech tokenizer.
        vocab: Ids per span in order, `{text: ..., speech: ..., image: ...}`; checked against the
            tokenizers.
        tasks: Share of each task among the training samples; need not sum to one.
        rows: Rows of a batch, B.
        row_length: Tokens of a row, L.
        max_tail_pads: See `Template`.
        condition_dropout: Probability that a sample is seen without its condition.
        val_samples: Validation samples per task, and test samples of the verb `test`.
        seed: Seed of order, pads and dropout.
        complementary: Show every training sample twice with complementary masks, so that each of
            its tokens is predicted once (LaViDa, arXiv:2505.16839, section 3.2).
        transcribe_first: Tasks whose answer begins with the transcript of the spoken request.
        text_ranks: File of text ranks; None for those bundled with the package, `qwen` for Qwen's,
            which the package `dashscope` holds.
        test_split: Split that the verb `test` measures.
        special_tokens: `native`, or `released` for those of the Omni-Diffusion release, whose chat
            template comes with them.
        continuous_speech: Speech feature encoder whose features replace the codes of a user's
            speech; needs the released special tokens, and `continuous_dim` in the backbone. None
            for codes.
        file_tokenizers: Exported folder of the tokenizer of each further modality.
        request_image_size: Side of the pictures in requests in pixels; those in answers have the
            image tokenizer's. None for one size.
        lanes: Lanes of the training stream, a multiple of processes times workers.
        num_workers: Worker processes that load the training batches of each process; 0 for none.
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
        transcribe_first: list[str] | None = None,
        text_ranks: str | None = None,
        test_split: str = "test_iid",
        special_tokens: SpecialTokensName = "native",
        continuous_speech: SpeechFeatureEncoder | None = None,
        file_tokenizers: dict[str, str] | None = None,
        request_image_size: int | None = None,
        lanes: int = LANES,
        num_workers: int = 0,
    ) -> None:
        super().__init__(lanes, num_workers)
        for task, share in tasks.items():
            task_named(task)
            check_within(f"data.tasks.{task}", share, 0)
        if not any(tasks.values()):
            raise OmniError("data.tasks gives no task a share; name at least one, such as t2i: 1")
        Vocab.from_sizes(vocab, special_tokens)
        check_continuous_speech(special_tokens, continuous_speech)
        check_within("data.rows", rows, 1)
        check_within("data.row_length", row_length, 1)
        check_within("data.condition_dropout", condition_dropout, 0, 1)
        check_within("data.val_samples", val_samples, 0)
        if request_image_size is not None:
            check_within("data.request_image_size", request_image_size, 1)
        for modality, pads in max_tail_pads.items():
            check_within(f"data.max_tail_pads.{modality}", pads, 0)
        if test_split not in SPLITS:
            raise OmniError(f"data.test_split is '{test_split}', wanted one of {', '.join(SPLITS)}")
        self.test_split = test_split
        self.transcribe_first = transcribe_first or []
        check_transcript_tasks(self.transcribe_first)
        self.data, self.seed = parse_recorded_location(data, "data.data"), seed
        self.image_tokenizer = resolve_pretrained(image_tokenizer, "image_tokenizer")
        self.speech_tokenizer = resolve_pretrained(speech_tokenizer, "speech_tokenizer")
        self.file_tokenizers = {name: Path(f) for name, f in (file_tokenizers or {}).items()}
        self.request_image_size = request_image_size
        self.special_tokens = canonical_special_tokens(special_tokens)
        self.continuous_speech = continuous_speech
        self.vocab, self.tasks = vocab, {k: w for k, w in tasks.items() if w > 0}
        self.rows, self.row_length = rows, row_length
        self.max_tail_pads, self.condition_dropout = max_tail_pads, condition_dropout
        self.complementary = complementary
        self.val_samples, self.text_ranks = val_samples, text_ranks

    def prepare_data(self) -> None:
        """Encode the media once, on one process."""
        self._ensure_codes()

    def setup(self, stage: str) -> None:
        """Check that recipe, tokenizers and shards agree on the vocabulary."""
        folder = self._ensure_codes()
        manifest = read_manifest(folder)
        spans = {k: v for k, v in self.vocab.items() if k != TEXT}
        if spans != manifest["spans"]:
            raise OmniError(
                f"the vocab has spans {spans} but the tokenizers have {manifest['spans']}; "
                "set data.vocab to the tokenizers' sizes"
            )
        text = TextTokenizer(self.text_ranks or DEFAULT_RANKS)
        vocab = Vocab.from_sizes(self.vocab, self.special_tokens)
        self.template = make_template(
            vocab,
            text,
            image_columns=manifest["image_columns"],
            codebooks=manifest["codebooks"],
            max_tail_pads=self.max_tail_pads,
            request_image_columns=manifest.get("request_image_columns"),
        )
        self.folder, self.manifest = folder, manifest
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            check_longest_samples(
                folder,
                self.tasks,
                self.template,
                row_length=self.row_length,
                transcribe_first=self.transcribe_first,
            )

    def samples(self, task: str, split: str, *, limit: int | None = None) -> list[Sample]:
        """Return the first encoded samples of a task, or all of them, as training sees them."""
        found = read_samples(self.folder, task, split, limit=limit)
        return [with_transcript(s) for s in found] if task in self.transcribe_first else found

    def check_feature_projector(self, *, has_projector: bool) -> None:
        """Refuse a network with a projector of speech features on requests with speech codes.

        Raises:
            OmniError: If a task's request holds speech and there is no encoder.
        """
        spoken = [task for task in self.tasks if SPEECH in task_named(task).inputs]
        if has_projector and spoken and self.continuous_speech is None:
            raise OmniError(
                f"the backbone has a projector of continuous speech, but the speech of {spoken[0]} "
                "is given as codes; give data.continuous_speech, or leave continuous_dim out"
            )

    def check_text_ids(self, folder: Path) -> None:
        """Refuse text ids other than those of initial weights, where their folder holds them.

        Raises:
            OmniError: If they differ.
        """
        if (folder / RANKS_FILE).is_file():
            check_same_text_ids(self.template.text, folder / RANKS_FILE)

    def code_features(self) -> dict[str, Tensor]:
        """Return the features of each modality's codes, for `Transformer`'s embeddings."""
        return load_code_features(self.folder)

    def nelbo_units(self) -> dict[str, dict[str, float]]:
        """Return other units of the NELBO by modality: factors of nats per code."""
        side = ImageTokenizer.from_pretrained(self.image_tokenizer).image_size
        codes = self.manifest["image_columns"] ** 2
        return {
            "image": {"bits_per_dimension": codes / (3 * side**2) / math.log(2)},
            "speech": {"bits_per_second": self.manifest["tokens_per_second"] / math.log(2)},
        }

    def mixture(self) -> Mixture:
        """Return the contents of the training stream."""
        return Mixture(
            self.folder,
            self.tasks,
            self.seed,
            self.lanes,
            frozenset(self.transcribe_first),
            self.condition_dropout,
            self.complementary,
        )

    def train_dataloader(self) -> LaneLoader:
        """Return endless packed batches; end training with max_steps or max_time."""
        lanes = PackedLanes(
            self.mixture(), self.template, rows=self.rows, row_length=self.row_length
        )
        fitting = TOKENS_PER_MESSAGE // (self.rows * self.row_length)
        together = max(1, min(BATCHES_PER_MESSAGE, fitting))
        return self.make_lane_loader(lanes, batches_per_message=together)

    def stream_identity(self) -> dict[str, Any]:
        """Return what the positions of lanes depend on."""
        shares = {task: float(share) for task, share in self.tasks.items()}
        facts = {"data": manifest_digest(self.folder), "seed": self.seed, "tasks": shares}
        return {**super().stream_identity(), **facts, "complementary": self.complementary}

    def samples_in_batch(self, batch: Batch) -> Counts:
        """Return the samples that a training batch holds, by task."""
        return Counter(TASK_NAMES[task] for task in batch.host_tasks if task >= 0)

    def samples_up_to(self, lane: int, position: Position) -> Counts:
        """Return the samples that a lane's batches up to a position hold, by task."""
        return self.task_counter.count_up_to(lane, position)

    def samples_per_epoch(self) -> Counts:
        """Return how often the samples of each task are used in one pass over all of them."""
        return self.task_counter.count_per_epoch()

    @cached_property
    def task_counter(self) -> TaskCounter:
        """What counts the samples of each task in positions."""
        return TaskCounter(self.mixture())

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the position behind a training batch, and run the module's forward process."""
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        apply_forward_process = getattr(
            self.trainer and self.trainer.lightning_module, "apply_forward_process", None
        )
        return batch if apply_forward_process is None else apply_forward_process(batch)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the same packed batches of the validation split each time."""
        return self._make_fixed_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the same packed batches of the test split, for `lightning_omni test`."""
        return self._make_fixed_loader(self.test_split)

    def _make_fixed_loader(self, split: str) -> DataLoader[Batch]:
        rendered = list(self._render_in_order(split))
        packed = pack_stream(
            rendered,
            rows=self.rows,
            row_length=self.row_length,
            pad_token_id=self.template.vocab.pad_token_id,
            codebooks=self.template.codebooks,
        )
        batches = list(packed)
        held = sum(task >= 0 for batch in batches for task in batch.host_tasks)
        if held != len(rendered):
            raise OmniError(
                f"{held} of {len(rendered)} samples of the split {split} were packed; report it"
            )
        verb = None if self.trainer is None else self.trainer.state.fn
        if not batches and verb != "fit":
            raise OmniError(
                f"'{self.data}' has no samples of {', '.join(self.tasks)} in the split {split} to "
                "measure; prepare some (prep-data --split), or choose data.test_split and "
                "data.val_samples"
            )
        if not batches and self.val_samples:
            log.warning("no validation: the data have no samples in the split %s", split)
        return make_fixed_loader(batches, rank=self.rank, world_size=self.world_size)

    def _render_in_order(self, split: str) -> Iterator[tuple[int, TokenSequence]]:
        index = 0
        for task in self.tasks:
            samples = self.samples(task, split, limit=self.val_samples)
            if not samples and self.val_samples:
                log.warning("no samples of %s, split %s, so its loss is not measured", task, split)
            for sample in samples:
                yield index, self.template.render(sample, rng=Random(f"{split}-{index}"))
                index += 1

    def encoding_settings(self) -> EncodingSettings:
        """Return the data folder and what encodes its media."""
        return EncodingSettings(
            self.data,
            self.image_tokenizer,
            self.speech_tokenizer,
            self.continuous_speech,
            self.file_tokenizers,
            self.request_image_size,
        )

    def _ensure_codes(self) -> Location:
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return ensure_codes(self.encoding_settings(), device)
