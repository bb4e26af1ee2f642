"""The four sizes of the built-in EmojiWorld corpus: smoke, demo, mini and full."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data_prep.emojiworld.lexicon import BACKGROUNDS, INKS, OBJECTS
from data_prep.emojiworld.scenes import SceneParameters


@dataclass(frozen=True, slots=True)
class VoiceRoles:
    """Voices by their use.

    Attributes:
        targets: Voices of speech to be generated.
        answers: Target voices of spoken answers.
        inputs: Voices of speech inputs in training, including the targets.
        rare: Input voices of lower quality, used for at most a tenth of the sentences.
        held_out: Voices of test_voice only.
    """

    targets: tuple[str, ...]
    answers: tuple[str, ...]
    inputs: tuple[str, ...]
    rare: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """One size of the corpus.

    Attributes:
        name: Name on the command line.
        world: Objects, colours, styles and sizes of the scenes.
        test_styles: Art styles of test_style only.
        use_glyphs: Draw silhouettes from glyphs with inner lines instead of filled outlines.
        scenes: Number of scenes per split.
        spoken_scenes: Maximum number of spoken questions and of spoken captions per split.
        voices: Voices by their use.
        captions_spoken: Maximum number of distinct training captions that are spoken.
        voices_per_caption: Number of input voices of each of them, in addition to the targets.
        facts: Names of the fact collections.
        facts_spoken: Maximum number of facts that are asked by speech.
        facts_asked_in_test: Maximum number of facts per test.
        sentences: Number of WordNet sentences per split; empty for none.
        reads_sentences: Train asr and tts on these sentences; otherwise only the speech tokenizer
            is trained on them, and test_words tests words that no training sample contains.
        max_icons: Maximum number of single emoji that are added with their names.
        has_easy_vqa: Add the easy-VQA data set.
        has_human_speech: Add human recordings to test_voice.
        hold_out: Share of combinations that no training sample contains.
        text_only_facts: Share of spoken facts that training contains as text only.
        silent_objects: Share of objects that training contains no spoken prompt for.
        rephrases_facts: Also ask sums by speech in other words.
    """

    name: str
    world: SceneParameters
    test_styles: tuple[str, ...]
    use_glyphs: bool
    scenes: dict[str, int]
    spoken_scenes: dict[str, int]
    voices: VoiceRoles
    captions_spoken: int
    voices_per_caption: int
    facts: tuple[str, ...]
    facts_spoken: int
    facts_asked_in_test: int
    sentences: dict[str, int]
    reads_sentences: bool
    max_icons: int
    has_easy_vqa: bool
    has_human_speech: bool
    hold_out: float = 0.1
    text_only_facts: float = 0.2
    silent_objects: float = 0.1
    rephrases_facts: bool = False


_SMOKE = Preset(
    name="smoke",
    world=SceneParameters(
        objects=("cat", "fish", "house", "tree"),
        inks=("red", "blue", "black"),
        backgrounds=("white", "yellow", "pink"),
        styles=("openmoji",),
        families=("ink", "ink", "one"),
        image_size=64,
        sprite_size=(46, 50),
        jitter=4,
    ),
    test_styles=(),
    use_glyphs=False,
    scenes={"train": 150, "val": 16, "test_iid": 24, "test_comp": 12, "test_xmodal": 8},
    spoken_scenes={
        "train": 80, "val": 12, "test_iid": 16, "test_comp": 12, "test_xmodal": 8, "test_voice": 8
    },
    voices=VoiceRoles(
        targets=("espeak-en-us",),
        answers=("espeak-en-us",),
        inputs=("espeak-en-us", "espeak-en"),
        rare=(),
        held_out=("espeak-en-us-m3",),
    ),
    captions_spoken=30,
    voices_per_caption=1,
    facts=("tiny",),
    facts_spoken=10,
    facts_asked_in_test=10,
    sentences={},
    reads_sentences=False,
    max_icons=0,
    has_easy_vqa=False,
    has_human_speech=False,
)  # fmt: skip

_DEMO = Preset(
    name="demo",
    world=SceneParameters(
        objects=("apple", "car", "cat", "fish", "house", "star", "tree", "umbrella"),
        inks=("red", "blue", "green", "black"),
        backgrounds=("white", "gray", "yellow", "pink"),
        styles=("noto",),
        families=("ink", "ink", "one"),
        image_size=64,
        sprite_size=(46, 50),
        jitter=2,
    ),
    test_styles=("fluent",),
    use_glyphs=False,
    scenes={
        "train": 3000, "val": 120, "test_iid": 320, "test_comp": 200, "test_style": 80,
        "test_xmodal": 60,
    },
    spoken_scenes={
        "train": 3000, "val": 120, "test_iid": 320, "test_comp": 200, "test_xmodal": 60,
        "test_voice": 80,
    },
    voices=VoiceRoles(
        targets=("flite-rms",),
        answers=("flite-rms",),
        inputs=("flite-rms", "flite-slt", "flite-kal16"),
        rare=(),
        held_out=("flite-awb",),
    ),
    captions_spoken=1000,
    voices_per_caption=2,
    facts=("small sums", "everyday, in writing"),
    facts_spoken=1000,
    facts_asked_in_test=60,
    sentences={},
    reads_sentences=False,
    max_icons=0,
    has_easy_vqa=False,
    has_human_speech=False,
    rephrases_facts=True,
)  # fmt: skip

# No training data of mini have a share-alike licence, so weights trained on them may be published.
# Two CPU cores learn sixteen objects in three styles, as silhouettes, counts and pairs, in three
# hours; `full` has all objects.
_MINI = Preset(
    name="mini",
    world=SceneParameters(
        objects=(
            "apple", "banana", "butterfly", "car", "cat", "elephant", "fish", "guitar", "house",
            "key", "mushroom", "rocket", "star", "tree", "umbrella", "whale",
        ),
        inks=tuple(INKS),
        backgrounds=tuple(BACKGROUNDS),
        styles=("noto", "twemoji", "fluent"),
        families=("ink", "ink", "one", "one", "count", "pair"),
        image_size=64,
        sprite_size=(46, 52),
        jitter=4,
    ),
    test_styles=("openmoji", "emojione", "fxemoji"),
    use_glyphs=True,
    scenes={
        "train": 24_000, "val": 500, "test_iid": 1000, "test_comp": 1500, "test_style": 500,
        "test_xmodal": 300,
    },
    spoken_scenes={
        "train": 24_000, "val": 150, "test_iid": 400, "test_comp": 300, "test_xmodal": 200,
        "test_voice": 200,
    },
    voices=VoiceRoles(
        targets=("flite-rms",),
        answers=("flite-rms",),
        inputs=("flite-rms", "flite-slt", "flite-kal16"),
        rare=("espeak-en-us",),
        held_out=("flite-awb",),
    ),
    captions_spoken=3000,
    voices_per_caption=2,
    facts=("sums", "everyday", "capitals"),
    facts_spoken=600,
    facts_asked_in_test=290,
    sentences={"train": 1800, "val": 60, "test_words": 150},
    reads_sentences=False,
    max_icons=200,
    has_easy_vqa=True,
    has_human_speech=True,
)  # fmt: skip

_FULL = replace(
    _MINI,
    name="full",
    world=replace(
        _MINI.world,
        objects=tuple(OBJECTS),
        families=("ink", "one", "count", "pair"),
        sprite_size=(42, 58),
        jitter=10,
    ),
    voices=replace(
        _MINI.voices, targets=("flite-rms", "flite-slt"), answers=("flite-rms", "flite-slt")
    ),
    scenes={**_MINI.scenes, "train": 60_000, "val": 1000, "test_comp": 3000},
    spoken_scenes={**_MINI.spoken_scenes, "train": 60_000},
    captions_spoken=9000,
    facts=("sums", "everyday", "capitals", "countries", "definitions"),
    facts_spoken=1500,
    sentences={"train": 6000, "val": 60, "test_words": 300},
    reads_sentences=True,
    max_icons=10_000,
)

PRESETS = {preset.name: preset for preset in (_SMOKE, _DEMO, _MINI, _FULL)}
