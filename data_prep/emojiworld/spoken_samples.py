"""Samples with speech: which voice says which sentence in which split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from data_prep.collection import Collection
from data_prep.emojiworld.facts import Fact, rephrase_sum
from data_prep.emojiworld.scene_text import SceneQuestion
from data_prep.emojiworld.scenes import Scene
from data_prep.hashing import hash_bucket, sort_by_hash
from data_prep.leak_checks import HeldOutContent
from data_prep.media_file import MediaFile
from data_prep.presets import Preset, VoiceRoles
from data_prep.samples import image_part, make_sample, make_turn, speech_part, text_part
from data_prep.speech.clip_cache import Clip, ClipCache
from data_prep.speech.synthesizers import voice_source_and_licence

_VAL_BUCKETS = 4  # one in four held-out sentences goes to val
_FACT_VAL_BUCKETS = 5  # one in five facts is tested in val
_RARE_BUCKETS = 10  # one in ten sentences is said by a rare voice
_MAX_COMPOSED = 240  # captions of held-out combinations to transcribe and to read
_MAX_NEW_VOICE_SENTENCES = 120  # test sentences also said by the held-out voices

DrawnScene = tuple[Scene, MediaFile]
Pictures = dict[str, list[DrawnScene]]
"""Scenes and their images by split."""
Job = Callable[[], None]


class SpokenSampleBuilder:
    """Plans all clips first, so that they are synthesized at once, and adds the samples afterwards.

    Args:
        preset: Preset whose voices are those available here.
        rules: Split rules.
        clips: Cache that the clips are requested from.
        collection: Collection that the samples are added to.
    """

    def __init__(
        self, preset: Preset, rules: HeldOutContent, clips: ClipCache, collection: Collection
    ) -> None:
        self._preset = preset
        self._voices = preset.voices
        self._rules = rules
        self._clips = clips
        self._collection = collection
        self._jobs: list[Job] = []
        self._read: set[tuple[str, str, str]] = set()
        self._media = cache(clip_media_file)

    def plan_samples(
        self,
        pictures: Pictures,
        facts: list[Fact],
        spoken_facts: list[str],
        sentences: dict[str, list[str]],
    ) -> None:
        """Request every clip and plan the samples made from it.

        Args:
            pictures: Scenes and their images by split.
            facts: All facts.
            spoken_facts: Questions of the facts that are asked by speech.
            sentences: WordNet sentences by split.
        """
        self._plan_captions(pictures)
        self._plan_questions(pictures)
        self._plan_facts(facts, set(spoken_facts))
        self._plan_sentences(pictures, sentences)

    def add_samples(self, human: list[MediaFile]) -> None:
        """Add the planned samples, after synthesis, and recordings of people to test_voice."""
        for job in self._jobs:
            job()
        for recording in human:
            add_utterance_samples(
                self._collection, "test_voice", recording, "human", is_target=False
            )

    def _plan_captions(self, pictures: Pictures) -> None:
        """Plan spoken captions and s2i samples; in training, only of captions that are spoken."""
        trained = {scene.content.caption() for scene, _ in pictures["train"]}
        spoken = set(sort_by_hash(trained, "caption")[: self._preset.captions_spoken])
        for caption in sorted(spoken):
            voices = choose_input_voices(self._voices, caption, self._preset.voices_per_caption)
            for voice in sorted({*self._voices.targets, *voices}):
                self._plan_utterance("train", caption, voice, "caption")
        for split, scenes in pictures.items():
            count = self._preset.spoken_scenes.get(split, 0)
            for scene, medium in self._select_spoken_scenes(split, scenes, spoken)[:count]:
                caption = scene.content.caption()
                voices = choose_input_voices(self._voices, caption, self._preset.voices_per_caption)
                voice = voices[hash_bucket("s2i", scene.pixel_key(), num_buckets=len(voices))]
                if split != "train":
                    voice = choose_input_voice(self._voices, "s2i", scene.pixel_key())
                self._plan_prompt(split, scene, medium, voice)
        tested = self._select_spoken_scenes("test_iid", pictures["test_iid"], spoken)
        for scene, medium in tested[: self._preset.spoken_scenes.get("test_voice", 0)]:
            for voice in self._voices.held_out:
                self._plan_prompt("test_voice", scene, medium, voice)

    def _select_spoken_scenes(
        self, split: str, scenes: list[DrawnScene], spoken: set[str]
    ) -> list[DrawnScene]:
        """Return the scenes whose captions may be spoken in a split, with their images."""
        return [drawn for drawn in scenes if self._has_spoken_prompt(split, drawn[0], spoken)]

    def _has_spoken_prompt(self, split: str, scene: Scene, spoken: set[str]) -> bool:
        is_silent = bool(self._rules.silent_objects & set(scene.content.objects))
        if split == "test_xmodal":
            return is_silent
        return not is_silent and (split != "train" or scene.content.caption() in spoken)

    def _plan_prompt(self, split: str, scene: Scene, medium: MediaFile, voice: str) -> None:
        clip = self._clips.request_clip(scene.content.caption(), voice)
        self._jobs.append(
            lambda: add_s2i_sample(self._collection, split, self._media(clip), medium, scene.meta())
        )

    def _plan_questions(self, pictures: Pictures) -> None:
        """Plan one spoken question per picture."""
        for split in ("train", "val", "test_iid", "test_comp"):
            count = self._preset.spoken_scenes.get(split, 0)
            for scene, medium in pictures[split][:count]:
                question = _choose_question(scene)
                voice = choose_input_voice(self._voices, "svqa", scene.pixel_key())
                self._plan_question(split, scene, medium, question, voice)
        count = self._preset.spoken_scenes.get("test_voice", 0)
        for scene, medium in pictures["test_iid"][:count]:
            for voice in self._voices.held_out:
                self._plan_question("test_voice", scene, medium, _choose_question(scene), voice)

    def _plan_question(
        self, split: str, scene: Scene, medium: MediaFile, question: SceneQuestion, voice: str
    ) -> None:
        answer_voice = choose_answer_voice(self._voices, "svqa", scene.pixel_key())
        question_clip = self._request_turn_clip(split, question.text, voice, "question")
        answer_clip = self._request_turn_clip(split, question.sentence, answer_voice, "answer")
        self._jobs.append(
            lambda: add_svqa_sample(
                self._collection,
                split,
                self._media(question_clip),
                medium,
                self._media(answer_clip),
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
                self._plan_fact(
                    "test_xmodal", fact, choose_input_voice(self._voices, fact.question)
                )
                continue
            self._plan_spoken_fact(fact)
            if tests < self._preset.facts_asked_in_test // 2:
                tests += 1
                for voice in self._voices.held_out:
                    self._plan_fact("test_voice", fact, voice)

    def _plan_spoken_fact(self, fact: Fact) -> None:
        """Plan a fact in all input voices; one voice per wording is kept for val or test_iid."""
        is_val = hash_bucket("sqa", fact.question, num_buckets=_FACT_VAL_BUCKETS) == 0
        others = rephrase_sum(fact.question) if self._preset.rephrases_facts else []
        for question in (fact.question, *others):
            variant = replace(fact, question=question)
            *trained, kept = sort_by_hash(self._voices.inputs, question)
            for voice in trained:
                self._plan_fact("train", variant, voice)
            self._plan_fact("val" if is_val else "test_iid", variant, kept)

    def _plan_written_fact(self, fact: Fact) -> None:
        add_tqa_sample(self._collection, "train", fact)
        bucket = hash_bucket("tqa", fact.question, num_buckets=_FACT_VAL_BUCKETS)
        split = "val" if bucket == 0 else "test_iid"
        limit = self._preset.facts_asked_in_test
        if len(self._collection.samples["tqa", split]) < (limit // 3 if bucket == 0 else limit):
            add_tqa_sample(self._collection, split, fact)

    def _plan_fact(self, split: str, fact: Fact, voice: str) -> None:
        answer_voice = choose_answer_voice(self._voices, "sqa", fact.question)
        question_clip = self._request_turn_clip(split, fact.question, voice, "fact")
        answer_clip = self._request_turn_clip(split, fact.sentence, answer_voice, "answer")
        self._jobs.append(
            lambda: add_sqa_sample(
                self._collection, split, fact, self._media(question_clip), self._media(answer_clip)
            )
        )

    def _plan_sentences(self, pictures: Pictures, sentences: dict[str, list[str]]) -> None:
        """Plan sentences to transcribe and to read; tests use sentences of no training text."""
        for split in ("train", "val"):
            for sentence in sentences.get(split, []):
                (voice,) = choose_input_voices(self._voices, sentence, 1)
                if self._preset.reads_sentences:
                    self._plan_utterance(split, sentence, voice, "sentence")
                else:
                    self._plan_recording(split, sentence, voice)
        unseen: dict[str, list[str]] = {"val": [], "test_iid": []}
        composed = {scene.content.caption() for scene, _ in pictures["test_comp"]}
        for caption in sort_by_hash(composed, "composed")[:_MAX_COMPOSED]:
            is_val = hash_bucket("composed", caption, num_buckets=_VAL_BUCKETS) == 0
            unseen["val" if is_val else "test_iid"].append(caption)
        unseen["test_words"] = sentences.get("test_words", [])
        self._plan_unseen_sentences(unseen)

    def _plan_unseen_sentences(self, unseen: dict[str, list[str]]) -> None:
        """Plan unseen sentences in all input voices, and some in the held-out voices."""
        for split, texts in unseen.items():
            for sentence in texts:
                for voice in self._voices.inputs:
                    self._plan_utterance(split, sentence, voice, "unseen")
        for sentence in unseen["test_iid"][:_MAX_NEW_VOICE_SENTENCES]:
            for voice in self._voices.held_out:
                self._plan_utterance("test_voice", sentence, voice, "unseen")

    def _request_turn_clip(self, split: str, sentence: str, voice: str, kind: str) -> Clip:
        """Request the clip of a turn; in training it is an utterance of its own, too."""
        if split == "train":
            self._plan_utterance(split, sentence, voice, kind)
        return self._clips.request_clip(sentence, voice)

    def _plan_recording(self, split: str, sentence: str, voice: str) -> None:
        """Plan a recording that only the speech tokenizer is trained on."""
        clip = self._clips.request_clip(sentence, voice)
        self._jobs.append(lambda: self._collection.add_media(split, self._media(clip)))

    def _plan_utterance(self, split: str, sentence: str, voice: str, kind: str) -> None:
        if (split, sentence, voice) in self._read:
            return
        self._read.add((split, sentence, voice))
        clip = self._clips.request_clip(sentence, voice)
        self._jobs.append(lambda: self._add_utterance(split, clip, kind))

    def _add_utterance(self, split: str, clip: Clip, kind: str) -> None:
        is_target = clip.voice in self._voices.targets
        add_utterance_samples(self._collection, split, self._media(clip), kind, is_target=is_target)


def _choose_question(scene: Scene) -> SceneQuestion:
    questions = scene.content.questions()
    return questions[hash_bucket("svqa", scene.pixel_key(), num_buckets=len(questions))]


def choose_input_voices(voices: VoiceRoles, sentence: str, count: int) -> list[str]:
    """Choose `count` input voices by the hash of a sentence; the last may be a rare voice."""
    chosen = sort_by_hash(voices.inputs, sentence)[:count]
    if voices.rare and hash_bucket("rare", sentence, num_buckets=_RARE_BUCKETS) == 0:
        chosen[-1] = sort_by_hash(voices.rare, sentence)[0]
    return chosen


def choose_input_voice(voices: VoiceRoles, *key: object) -> str:
    """Choose one input voice by hash."""
    is_rare = voices.rare and hash_bucket("rare", *key, num_buckets=_RARE_BUCKETS) == 0
    choices = voices.rare if is_rare else voices.inputs
    return choices[hash_bucket("input", *key, num_buckets=len(choices))]


def choose_answer_voice(voices: VoiceRoles, *key: object) -> str:
    """Choose the voice of a spoken answer by hash."""
    return voices.answers[hash_bucket("answer", *key, num_buckets=len(voices.answers))]


def clip_media_file(clip: Clip) -> MediaFile:
    """Return a synthetic clip as a file of the media shards."""
    source, licence = voice_source_and_licence(clip.voice)
    info = {"text": clip.text, "voice": clip.voice, "source": source, "licence": licence}
    return MediaFile(
        clip.key, "speech", "flac", {**info, "duration_s": clip.duration_s()}, clip.read_flac
    )


def add_utterance_samples(
    collection: Collection, split: str, recording: MediaFile, kind: str, *, is_target: bool
) -> None:
    """Add an asr sample, and also a tts sample if the voice is a target voice."""
    words, voice = recording.info["text"], recording.info["voice"]
    meta = {"set": "speech", "source": kind, "voice": voice, "text": words}
    transcription = (
        make_turn("user", speech_part(recording)),
        make_turn("assistant", text_part(words)),
    )
    collection.add_sample(split, make_sample("asr", *transcription, meta=meta), recording)
    if is_target:
        synthesis = (
            make_turn("user", text_part(words)),
            make_turn("assistant", speech_part(recording)),
        )
        collection.add_sample(split, make_sample("tts", *synthesis, meta=meta), recording)


def add_s2i_sample(
    collection: Collection, split: str, prompt: MediaFile, picture: MediaFile, meta: dict[str, Any]
) -> None:
    """Add an s2i sample: a spoken caption and its picture."""
    spoken = {"voice": prompt.info["voice"], "text": prompt.info["text"]}
    turns = (make_turn("user", speech_part(prompt)), make_turn("assistant", image_part(picture)))
    sample = make_sample("s2i", *turns, meta={**meta, **spoken})
    collection.add_sample(split, sample, prompt, picture)


def add_svqa_sample(
    collection: Collection,
    split: str,
    question_clip: MediaFile,
    picture: MediaFile,
    answer_clip: MediaFile,
    question: SceneQuestion,
    meta: dict[str, Any],
) -> None:
    """Add an svqa sample; the answer is one sentence as text and as speech."""
    turns = (
        make_turn("user", speech_part(question_clip), image_part(picture)),
        make_turn("assistant", text_part(question.sentence), speech_part(answer_clip)),
    )
    facts = {
        "question": question.text,
        "answer": question.answer,
        "kind": question.kind,
        **_voice_meta(question_clip, answer_clip),
    }
    sample = make_sample("svqa", *turns, meta={**meta, **facts})
    collection.add_sample(split, sample, question_clip, picture, answer_clip)


def add_tqa_sample(collection: Collection, split: str, fact: Fact) -> None:
    """Add a tqa sample, whose answer is the bare answer word."""
    turns = (
        make_turn("user", text_part(fact.question)),
        make_turn("assistant", text_part(fact.answer)),
    )
    collection.add_sample(split, make_sample("tqa", *turns, meta=_fact_meta(fact)))


def add_sqa_sample(
    collection: Collection, split: str, fact: Fact, question_clip: MediaFile, answer_clip: MediaFile
) -> None:
    """Add an sqa sample; the answer is one sentence as text and as speech."""
    turns = (
        make_turn("user", speech_part(question_clip)),
        make_turn("assistant", text_part(fact.sentence), speech_part(answer_clip)),
    )
    meta = {**_fact_meta(fact), **_voice_meta(question_clip, answer_clip)}
    collection.add_sample(split, make_sample("sqa", *turns, meta=meta), question_clip, answer_clip)


def _fact_meta(fact: Fact) -> dict[str, Any]:
    return {
        "set": "fact",
        "fact": fact.question,
        "question": fact.question,
        "answer": fact.answer,
        "topic": fact.topic,
    }


def _voice_meta(question_clip: MediaFile, answer_clip: MediaFile) -> dict[str, Any]:
    return {
        "voice": question_clip.info["voice"],
        "text": question_clip.info["text"],
        "answer_voice": answer_clip.info["voice"],
        "answer_text": answer_clip.info["text"],
    }
