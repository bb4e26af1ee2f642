"""Command line: `python -m data_prep --preset demo --out data/demo`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data_prep.corpora import CORPORA
from data_prep.package_versions import package_versions
from data_prep.prepare_corpus import prepare_corpus
from data_prep.prepare_preset import prepare_preset
from data_prep.presets import PRESETS
from data_prep.speech.prepare_spoken import prepare_spoken
from data_prep.speech.speakable import MAX_ANSWER_WORDS
from data_prep.speech.spoken_visual_data import SpeakOptions
from data_prep.speech.synthesizer_config import read_synthesizer_config
from data_prep.speech.voices import BUILT_IN
from data_prep.tally import MAX_UNUSABLE_SHARE
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.jobs.options import EXECUTORS, ExecutorOptions
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import SPLITS

log = logging.getLogger("data_prep")


def main(argv: Sequence[str] | None = None) -> int:
    """Build a data folder; return 0, or 2 after printing one line about a mistake of the user."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        args = _make_parser().parse_args(argv)
        args.out = args.out and args.out.expanduser()
        _prepare_data(args)
    except OmniError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _prepare_data(args: argparse.Namespace) -> None:
    if args.corpus is None and (args.source is not None or args.tasks):
        name = "--source" if args.source else "--tasks"
        raise OmniError(f"{name} is only used with --corpus LAYOUT; presets have their own sources")
    if not 0 <= args.max_unusable < 1:
        raise OmniError(f"--max-unusable is {args.max_unusable}, wanted a share in [0, 1)")
    executor = ExecutorOptions(args.executor, args.processes, args.part, args.parts)
    if args.corpus is None and executor.executor != "local":
        raise OmniError(f"--executor {args.executor} is only used with --corpus LAYOUT")
    if args.speak is not None:
        _prepare_spoken_data(args)
        return
    if args.corpus is None:
        prepare_preset(args.preset or "mini", args.out, cache=args.cache, online=not args.offline)
    elif args.source is None or args.out is None:
        raise OmniError("--corpus needs --source DIR_OR_FILE ... and --out DIR")
    else:
        prepare_corpus(
            args.corpus,
            args.source,
            args.out,
            split=args.split,
            facts=package_versions(),
            tasks=args.tasks,
            options=executor,
            max_unusable=args.max_unusable,
        )


def _prepare_spoken_data(args: argparse.Namespace) -> None:
    if args.out is None:
        raise OmniError("--speak DATA needs --out DIR")
    if any(limit is not None and limit < 1 for limit in (args.max_answer_words, args.max_samples)):
        raise OmniError("--max-answer-words and --max-samples are 1 or more")
    options = SpeakOptions(
        config=read_synthesizer_config(args.synthesizer),
        seed=args.seed,
        max_answer_words=args.max_answer_words,
        max_samples=args.max_samples,
        processes=args.processes or 1,
    )
    cache = make_folder(args.cache.expanduser().resolve())
    prepare_spoken(args.speak, args.out, options, cache=cache, facts=package_versions())


class _RaisingParser(argparse.ArgumentParser):
    """Argument parser that raises `OmniError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the parser's message as an `OmniError`."""
        raise OmniError(message)


def _make_parser() -> argparse.ArgumentParser:
    parser = _RaisingParser(prog="lightning_omni prep-data", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="built-in corpus: smoke, demo, mini or full (default: mini)",
    )
    choice.add_argument("--corpus", choices=list(CORPORA), help="layout of your own corpus")
    choice.add_argument(
        "--speak",
        type=Path,
        help="data folder whose vqa and t2i samples are spoken: in --out they are svqa and s2i "
        "samples",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        help="folders, files or URLs of your own corpus, which may be larger than memory; braces "
        "stand for several, as in '{00000..00012}.tar'",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASK_NAMES,
        default=(),
        help="tasks to make samples of (default: all that the layout has data for)",
    )
    parser.add_argument(
        "--max-unusable",
        type=float,
        default=MAX_UNUSABLE_SHARE,
        help="with --corpus: largest share of unusable entries that is left out, counted and "
        "listed; with more, nothing is written (default: 0.05)",
    )
    parser.add_argument("--out", type=Path, help="data folder to write (default: data/PRESET)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="split that your corpus is written as: train, val or a test_... (default: train)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("~/.cache/lightning_omni"),
        help="folder for downloads and synthetic speech (default: ~/.cache/lightning_omni)",
    )
    parser.add_argument(
        "--offline", action="store_true", help="download nothing; use cached and installed sources"
    )
    parser.add_argument(
        "--synthesizer",
        default=BUILT_IN,
        help="with --speak: class of the speech synthesizer, or a YAML file of its class_path and "
        "init_args",
    )
    parser.add_argument(
        "--max-answer-words",
        type=int,
        default=MAX_ANSWER_WORDS,
        help="with --speak: longest answer that is spoken (default: 100)",
    )
    parser.add_argument(
        "--max-samples",
        type=int,
        help="with --speak: number of samples of each task and split to make (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="with --speak: seed by which questions get their voices (default: 0)",
    )
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="with --corpus: what starts the processes, as in `encode`: local, torchrun, ray or "
        "slurm-array (default: local)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="with --corpus: processes of local, or tasks that ray runs at one time (default: one "
        "per core, at most 8); with --speak: processes that synthesize speech (default: 1)",
    )
    parser.add_argument("--part", type=int, help="part of an array, from 0 (default: Slurm's)")
    parser.add_argument("--parts", type=int, help="parts of the array (default: Slurm's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
