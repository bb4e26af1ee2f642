"""English captions of scenes, and questions about them."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.emojiworld.lexicon import NUMBERS, add_article, is_plural_only, pluralize

RELATIONS = ("left of", "right of", "above", "below")
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question about a scene.

    Attributes:
        text: Question in lower case, without a question mark.
        answer: Bare answer.
        sentence: Answer as a sentence, for speech.
        kind: Kind of question, the group in evaluation.
    """

    text: str
    answer: str
    sentence: str
    kind: str


@dataclass(frozen=True, slots=True)
class SceneContent:
    """Content of a scene.

    Attributes:
        family: `one`, `ink`, `count` or `pair`.
        objects: Object name; two for a pair, the first is the subject of the caption.
        background: Background colour.
        ink: Colour of a silhouette; None for coloured art.
        count: Number of objects.
        relation: Relation of a pair; None otherwise.
    """

    family: str
    objects: tuple[str, ...]
    background: str
    ink: str | None = None
    count: int = 1
    relation: str | None = None

    def caption(self) -> str:
        """Describe the scene in one phrase."""
        word = self.objects[0]
        if self.relation is not None:
            other = self.objects[1]
            relation = _relation_words(self.relation)
            return f"{add_article(word, word)} {relation} {add_article(other, other)}"
        if self.family == "count":
            what = f"{NUMBERS[self.count]} {pluralize(word) if self.count > 1 else word}"
        else:
            noun = f"{self.ink} {word}" if self.ink else word
            what = add_article(noun, word)
        return f"{what} on a {self.background} background"

    def combination_keys(self) -> tuple[tuple[str, ...], ...]:
        """Return the combinations of the scene that may be held out."""
        keys: list[tuple[str, ...]] = []
        if self.ink:
            keys.append(("ink", self.objects[0], self.ink))
        keys += [("background", word, self.background) for word in sorted(set(self.objects))]
        if self.count > 1:
            keys.append(("count", self.objects[0], str(self.count)))
        if self.relation is not None:
            keys.append(("pair", *sorted(self.objects)))
        return tuple(keys)

    def questions(self) -> tuple[SceneQuestion, ...]:
        """Return all questions that the picture answers."""
        if self.relation is not None:
            return self._pair_questions()
        word = self.objects[0]
        background = SceneQuestion(
            "what color is the background",
            self.background,
            f"it is {self.background}",
            "background",
        )
        if self.family == "count":
            return (count_question(word, self.count), background)
        questions = [object_question(word), background]
        if self.ink:
            questions.append(ink_question(word, self.ink))
        return tuple(questions)

    def _pair_questions(self) -> tuple[SceneQuestion, ...]:
        relation = self.relation or ""
        subject, other = self.objects
        return (
            relation_question(relation, other, subject),
            relation_question(_OPPOSITE[relation], subject, other),
        )


def object_question(word: str) -> SceneQuestion:
    """Ask for the object of a scene."""
    return SceneQuestion("what is in the picture", word, naming_sentence(word), "object")


def ink_question(word: str, ink: str) -> SceneQuestion:
    """Ask for an object's colour."""
    several = is_plural_only(word)
    verb, pronoun = ("are", "they are") if several else ("is", "it is")
    return SceneQuestion(f"what color {verb} the {word}", ink, f"{pronoun} {ink}", "ink")


def count_question(word: str, count: int) -> SceneQuestion:
    """Ask for the number of objects."""
    number = NUMBERS[count]
    sentence = f"there is one {word}" if count == 1 else f"there are {number} {pluralize(word)}"
    return SceneQuestion(f"how many {pluralize(word)} are there", number, sentence, "count")


def relation_question(relation: str, anchor: str, answer: str) -> SceneQuestion:
    """Ask for the object in a relation to the anchor."""
    text = f"what is {_relation_words(relation)} the {anchor}"
    return SceneQuestion(text, answer, naming_sentence(answer), "relation")


def naming_sentence(word: str) -> str:
    """Return a sentence such as "it is a whale"."""
    return f"they are {word}" if is_plural_only(word) else f"it is {add_article(word, word)}"


def _relation_words(relation: str) -> str:
    return f"to the {relation}" if relation.endswith("of") else relation
