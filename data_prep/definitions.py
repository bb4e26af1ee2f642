"""WordNet's definitions as questions and answers: `python -m data_prep.definitions --out FOLDER`.

It writes `train.jsonl` and `val.jsonl` for `prep-data --corpus messages`: plain English text of any
topic, about 120,000 short answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.hashing import sort_by_hash
from data_prep.sources import Sources
from lightning_omni.files import make_folder
from lightning_omni.whole_files import write_text

_PARTS = ("noun", "verb", "adj", "adv")
_VAL = 1000
CACHE = Path.home() / ".cache" / "lightning_omni"


def read_definitions(wordnet: Path) -> Iterator[tuple[str, str]]:
    """Yield (words, definition) of every entry.

    Args:
        wordnet: Folder with WordNet's `data.noun` and the files of the other parts of speech.
    """
    for part in _PARTS:
        for line in (wordnet / f"data.{part}").read_text("utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if line.startswith("  ") or not bar:
                continue
            fields = head.split()
            count = int(fields[3], 16)
            words = [fields[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(count)]
            yield ", ".join(words), gloss.strip()


def write_definitions(wordnet: Path, out: Path) -> tuple[int, int]:
    """Write the two files in hash order, and return their numbers of lines.

    Definitions of one set of words are in one of the files only.
    """
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"define {words}"},
                    {"role": "assistant", "content": gloss},
                ]
            },
            ensure_ascii=False,
        )
        for words, gloss in read_definitions(wordnet)
    ]
    ordered = sort_by_hash(lines, "definition")
    questions = [json.loads(line)["messages"][0]["content"] for line in ordered]
    held_out = set(questions[:_VAL])
    val = [line for line, asked in zip(ordered, questions, strict=True) if asked in held_out]
    train = [line for line, asked in zip(ordered, questions, strict=True) if asked not in held_out]
    make_folder(out)
    for name, content in (("train", train), ("val", val)):
        write_text(out / f"{name}.jsonl", "\n".join(content) + "\n")
    return len(train), len(val)


def main() -> None:
    """Fetch WordNet and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    wordnet = Sources(CACHE).fetch_deb_folder("wordnet") / "usr" / "share" / "wordnet"
    train, val = write_definitions(wordnet, out)
    print(f"wrote {train:,} definitions for training and {val:,} for validation to {out}")  # noqa: T201


if __name__ == "__main__":
    main()
