"""Tars of recordings, each with its text and speaker in a JSON file, as Emilia is published.

`EN-B000000.tar` of the WebDataset release holds `EN_B00000_S00000_W000000.mp3` and a `.json` of
the same name with `text`, `speaker`, `language`, `duration` and `dnsmos`. Other corpora are packed
alike with `flac` or `wav`, with the text as `transcript` or `sentence`, the speaker as
`speaker_id`, or the text in a `.txt`. Layout: the cards of
huggingface.co/datasets/amphion/Emilia-Dataset and of its derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.corpora.entries import Entry, TranscribedSpeech
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.source_files import AUDIO_SUFFIXES
from data_prep.corpora.tars import TAR_SUFFIXES, Files, decode_text, find_required_file, tar_entries
from data_prep.corpora.transcripts import SPEAKERS, TEXTS, clean_transcript, speaker_voice_name
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.files import parse_json_object

SUFFIXES = TAR_SUFFIXES
_SOUNDS = tuple(suffix.removeprefix(".") for suffix in AUDIO_SUFFIXES)


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every recording of a tar, or of the tars below a folder, with its text."""
    yield from tar_entries(source, _files_to_utterance, part)


def _files_to_utterance(origin: str, files: Files) -> TranscribedSpeech:
    sound = find_required_file(files, _SOUNDS, origin)
    facts = parse_json_object(files["json"], name=f"'{origin}'") if "json" in files else {}
    words = next((facts[name] for name in TEXTS if facts.get(name)), None)
    if words is None and "txt" in files:
        words = decode_text(files["txt"], origin)
    if not isinstance(words, str):
        raise OmniError(f"'{origin}' has no text ({', '.join(TEXTS)}) in its json, nor a txt")
    speaker = next((facts[name] for name in SPEAKERS if facts.get(name)), None)
    return TranscribedSpeech(
        origin, sound, clean_transcript(words, origin), speaker_voice_name(speaker)
    )
