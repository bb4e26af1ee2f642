"""Decides which sentence is said by whom in which split, and makes the spoken samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from data_prep.checks import Rules
from data_prep.collection import Collection, Media
from data_prep.emojiworld.facts import Fact, rephrased
from data_prep.emojiworld.scene_text import Question
from data_prep.emojiworld.scenes import Scene
from data_prep.emojiworld.splits import bucket, hashed_order
from data_prep.presets import Preset
from data_prep.speech.cache import Clip, SpeechBank
from data_prep.speech.spoken import (
    add_reading,
    add_spoken_drawing,
    add_spoken_fact,
    add_spoken_question,
    add_written_fact,
    answer_voice,
    clip_media,
    input_voice,
    input_voices,
)

_VAL_OF = 4  # one held-out sentence in so many goes to val
_FACT_VAL_OF = 5
_COMPOSED = 240  # captions of held-out combinations that are read, at most
_READ_BY_UNKNOWN = 120  # sentences that a held-out voice reads, at most

Pictures = dict[str, list[tuple[Scene, Media]]]
Job = Callable[[], None]


class Speaker:
    """Plans first, so that the bank is synthesized at once; adds samples afterwards.

    Args:
        preset: With the cast that is really available.
        rules: What training must not hear.
        bank: Takes the wishes.
        collection: Takes the samples.
    """

    def __init__(
        self, preset: Preset, rules: Rules, bank: SpeechBank, collection: Collection
    ) -> None:
        self._preset = preset
        self._cast = preset.cast
        self._rules = rules
        self._bank = bank
        self._collection = collection
        self._jobs: list[Job] = []
        self._read: set[tuple[str, str, str]] = set()
        self._media = cache(clip_media)

    def plan(
        self,
        pictures: Pictures,
        facts: list[Fact],
        spoken_facts: list[str],
        sentences: dict[str, list[str]],
    ) -> None:
        """Decide every clip and note the samples to make of it."""
        self._plan_captions(pictures)
        self._plan_questions(pictures)
        self._plan_facts(facts, set(spoken_facts))
        self._plan_sentences(pictures, sentences)

    def add_all(self, human: list[Media]) -> None:
        """Make the samples, the clips being there."""
        for job in self._jobs:
            job()
        for recording in human:
            add_reading(self._collection, "test_voice", recording, "human", is_target=False)

    def _plan_captions(self, pictures: Pictures) -> None:
        """Ask for pictures aloud. Training pictures take part if their caption is spoken."""
        trained = {scene.content.caption() for scene, _ in pictures["train"]}
        spoken = set(hashed_order(trained, "caption")[: self._preset.captions_spoken])
        for caption in sorted(spoken):
            heard = input_voices(self._cast, caption, self._preset.voices_per_caption)
            for voice in sorted({*self._cast.targets, *heard}):
                self._want_reading("train", caption, voice, "caption")
        for split, drawn in pictures.items():
            able = [(s, m) for s, m in drawn if self._may_be_asked(split, s, spoken)]
            for scene, medium in able[: self._preset.spoken_scenes.get(split, 0)]:
                caption = scene.content.caption()
                voices = input_voices(self._cast, caption, self._preset.voices_per_caption)
                voice = voices[bucket("s2i", scene.name(), of=len(voices))]
                if split != "train":
                    voice = input_voice(self._cast, "s2i", scene.name())
                self._plan_drawing(split, scene, medium, voice)
        tested = [
            (s, m) for s, m in pictures["test_iid"] if self._may_be_asked("test_iid", s, spoken)
        ]
        for scene, medium in tested[: self._preset.spoken_scenes.get("test_voice", 0)]:
            for voice in self._cast.held_out:
                self._plan_drawing("test_voice", scene, medium, voice)

    def _may_be_asked(self, split: str, scene: Scene, spoken: set[str]) -> bool:
        is_silent = bool(self._rules.silent_objects & set(scene.content.objects))
        if split == "test_xmodal":
            return is_silent
        return not is_silent and (split != "train" or scene.content.caption() in spoken)

    def _plan_drawing(self, split: str, scene: Scene, medium: Media, voice: str) -> None:
        clip = self._bank.want(scene.content.caption(), voice)
        self._jobs.append(
            lambda: add_spoken_drawing(
                self._collection, split, self._media(clip), medium, scene.meta()
            )
        )

    def _plan_questions(self, pictures: Pictures) -> None:
        """Ask one question per picture aloud."""
        for split in ("train", "val", "test_iid", "test_comp"):
            count = self._preset.spoken_scenes.get(split, 0)
            for scene, medium in pictures[split][:count]:
                question = _one_question(scene)
                voice = input_voice(self._cast, "svqa", scene.name())
                self._plan_question(split, scene, medium, question, voice)
        count = self._preset.spoken_scenes.get("test_voice", 0)
        for scene, medium in pictures["test_iid"][:count]:
            for voice in self._cast.held_out:
                self._plan_question("test_voice", scene, medium, _one_question(scene), voice)

    def _plan_question(
        self, split: str, scene: Scene, medium: Media, question: Question, voice: str
    ) -> None:
        asked = self._bank.want(question.text, voice)
        answering = answer_voice(self._cast, "svqa", scene.name())
        answered = self._bank.want(question.sentence, answering)
        if split == "train":
            self._want_reading(split, question.text, voice, "question")
            self._want_reading(split, question.sentence, answering, "answer")
        self._jobs.append(
            lambda: add_spoken_question(
                self._collection,
                split,
                self._media(asked),
                medium,
                self._media(answered),
                question,
                scene.meta(),
            )
        )

    def _plan_facts(self, facts: list[Fact], spoken: set[str]) -> None:
        for fact in facts:
            self._plan_written_fact(fact)
        tests = 0
        for fact in sorted(facts, key=lambda f: f.question):
            if fact.question not in spoken:
                continue
            if fact.question in self._rules.text_only_facts:
                self._plan_fact("test_xmodal", fact, input_voice(self._cast, fact.question))
                continue
            self._plan_heard_fact(fact)
            if tests < self._preset.facts_asked_in_test // 2:
                tests += 1
                for voice in self._cast.held_out:
                    self._plan_fact("test_voice", fact, voice)

    def _plan_heard_fact(self, fact: Fact) -> None:
        """Ask a fact in all voices, in each wording one of them for a test."""
        is_val = bucket("sqa", fact.question, of=_FACT_VAL_OF) == 0
        others = rephrased(fact.question) if self._preset.rephrases_facts else []
        for question in (fact.question, *others):
            asked = replace(fact, question=question)
            *trained, kept = hashed_order(self._cast.inputs, question)
            for voice in trained:
                self._plan_fact("train", asked, voice)
            self._plan_fact("val" if is_val else "test_iid", asked, kept)

    def _plan_written_fact(self, fact: Fact) -> None:
        add_written_fact(self._collection, "train", fact)
        asked = bucket("tqa", fact.question, of=_FACT_VAL_OF)
        where = "val" if asked == 0 else "test_iid"
        limit = self._preset.facts_asked_in_test
        if len(self._collection.samples["tqa", where]) < (limit // 3 if asked == 0 else limit):
            add_written_fact(self._collection, where, fact)

    def _plan_fact(self, split: str, fact: Fact, voice: str) -> None:
        asked = self._bank.want(fact.question, voice)
        answering = answer_voice(self._cast, "sqa", fact.question)
        answered = self._bank.want(fact.sentence, answering)
        if split == "train":
            self._want_reading(split, fact.question, voice, "fact")
            self._want_reading(split, fact.sentence, answering, "answer")
        self._jobs.append(
            lambda: add_spoken_fact(
                self._collection, split, fact, self._media(asked), self._media(answered)
            )
        )

    def _plan_sentences(self, pictures: Pictures, sentences: dict[str, list[str]]) -> None:
        """Plan sentences to transcribe and to read. Tests take sentences no training text has."""
        for split in ("train", "val"):
            for sentence in sentences.get(split, []):
                (voice,) = input_voices(self._cast, sentence, 1)
                if self._preset.reads_sentences:
                    self._want_reading(split, sentence, voice, "sentence")
                else:
                    self._want_sound(split, sentence, voice)
        unseen: dict[str, list[str]] = {"val": [], "test_iid": []}
        composed = {scene.content.caption() for scene, _ in pictures["test_comp"]}
        for caption in hashed_order(composed, "composed")[:_COMPOSED]:
            is_val = bucket("composed", caption, of=_VAL_OF) == 0
            unseen["val" if is_val else "test_iid"].append(caption)
        unseen["test_words"] = sentences.get("test_words", [])
        self._want_unseen(unseen)

    def _want_unseen(self, unseen: dict[str, list[str]]) -> None:
        """Plan test sentences in every input voice, and some in the held-out ones."""
        for split, texts in unseen.items():
            for sentence in texts:
                for voice in self._cast.inputs:
                    self._want_reading(split, sentence, voice, "unseen")
        for sentence in unseen["test_iid"][:_READ_BY_UNKNOWN]:
            for voice in self._cast.held_out:
                self._want_reading("test_voice", sentence, voice, "unseen")

    def _want_sound(self, split: str, sentence: str, voice: str) -> None:
        """Plan a recording that only the speech tokenizer uses."""
        clip = self._bank.want(sentence, voice)
        self._jobs.append(lambda: self._collection.add_media(split, self._media(clip)))

    def _want_reading(self, split: str, sentence: str, voice: str, kind: str) -> None:
        if (split, sentence, voice) in self._read:
            return
        self._read.add((split, sentence, voice))
        clip = self._bank.want(sentence, voice)
        self._jobs.append(lambda: self._add_reading(split, clip, kind))

    def _add_reading(self, split: str, clip: Clip, kind: str) -> None:
        is_target = clip.voice in self._cast.targets
        add_reading(self._collection, split, self._media(clip), kind, is_target=is_target)


def _one_question(scene: Scene) -> Question:
    questions = scene.content.questions()
    return questions[bucket("svqa", scene.name(), of=len(questions))]
