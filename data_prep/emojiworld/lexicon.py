"""Vocabulary of EmojiWorld: objects, inks, backgrounds, and their English inflection."""

from __future__ import annotations

OBJECTS: dict[str, str] = {
    "apple": "1f34e",
    "banana": "1f34c",
    "grapes": "1f347",
    "watermelon": "1f349",
    "lemon": "1f34b",
    "strawberry": "1f353",
    "pineapple": "1f34d",
    "carrot": "1f955",
    "pizza": "1f355",
    "cookie": "1f36a",
    "dog": "1f415",
    "cat": "1f408",
    "rabbit": "1f407",
    "tiger": "1f405",
    "horse": "1f40e",
    "cow": "1f404",
    "pig": "1f416",
    "chicken": "1f414",
    "penguin": "1f427",
    "frog": "1f438",
    "octopus": "1f419",
    "fish": "1f41f",
    "whale": "1f40b",
    "butterfly": "1f98b",
    "turtle": "1f422",
    "snake": "1f40d",
    "elephant": "1f418",
    "owl": "1f989",
    "snail": "1f40c",
    "crab": "1f980",
    "car": "1f697",
    "bus": "1f68c",
    "bicycle": "1f6b2",
    "train": "1f682",
    "airplane": "2708",
    "rocket": "1f680",
    "sailboat": "26f5",
    "tractor": "1f69c",
    "house": "1f3e0",
    "tent": "26fa",
    "tree": "1f333",
    "cactus": "1f335",
    "tulip": "1f337",
    "mushroom": "1f344",
    "sun": "2600",
    "star": "2b50",
    "cloud": "2601",
    "umbrella": "2602",
    "ball": "26bd",
    "guitar": "1f3b8",
    "trumpet": "1f3ba",
    "drum": "1f941",
    "key": "1f511",
    "candle": "1f56f",
    "scissors": "2702",
    "hammer": "1f528",
    "hat": "1f3a9",
    "crown": "1f451",
    "balloon": "1f388",
    "gift": "1f381",
    "bell": "1f514",
    "teapot": "1fad6",
    "camera": "1f4f7",
    "book": "1f4d5",
}
"""Emoji code point (lower-case hexadecimal, without variation selector) by object name."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (165, 165, 165),
    "blue": (120, 170, 240),
    "green": (140, 210, 140),
    "yellow": (250, 230, 110),
    "pink": (250, 175, 210),
    "purple": (180, 150, 230),
    "orange": (250, 175, 105),
}
"""sRGB value of each background colour."""

INKS: dict[str, str] = {
    "red": "#d01818",
    "blue": "#1838d0",
    "green": "#108030",
    "black": "#101010",
    "purple": "#7010a0",
    "brown": "#704010",
}
"""sRGB fill of a silhouette by ink; darker than every background, for contrast."""

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]

_PLURAL_ONLY = frozenset({"grapes", "scissors"})
_PLURALS = {
    "fish": "fish",
    "octopus": "octopuses",
    "butterfly": "butterflies",
    "cactus": "cactuses",
    "strawberry": "strawberries",
    "bus": "buses",
}


def is_plural_only(word: str) -> bool:
    """Tell whether a noun has no singular; such nouns take no article and are never counted."""
    return word in _PLURAL_ONLY


def pluralize(word: str) -> str:
    """Return the plural of an object name."""
    return _PLURALS.get(word, word + "s")


def add_article(phrase: str, word: str) -> str:
    """Put "a" or "an" before a phrase about `word`, unless it is plural only."""
    if is_plural_only(word):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def number_in_words(n: int) -> str:
    """Write a number from 0 to 99 in words."""
    if n < len(NUMBERS):
        return NUMBERS[n]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"][
        n // 10 - 2
    ]
    return tens if n % 10 == 0 else f"{tens} {NUMBERS[n % 10]}"
