"""Every rule on texts that it takes and texts that it leaves alone."""

import pytest

from data_prep.speech import speakable
from data_prep.speech.multiple_choice import (
    MultipleChoice,
    chosen_option_text,
    needs_options,
    split_options,
)
from data_prep.speech.speakable import (
    LeftOut,
    SpokenPair,
    SpokenText,
    to_open_question,
    to_spoken_pair,
)

EXAMPLES = {
    speakable.has_maths: (
        [
            r"What is $\frac{1}{2}$ of the pie?",
            r"Find \(x\) in the figure.",
            "What is $x$ here?",
            "The answer is x = 5.",
            "2x+3=7",
            "What is 2 + 3?",
            "What is 5 - 3?",
            "the area is 3 m^2",
            "Is AB ≥ CD?",
            "Solve for the unknown side.",
            "What is the length of AB?",
            "In triangle ABC, what is the angle at the top?",
            "What is the perimeter of the figure?",
        ],
        [
            "It costs $5, or $6 and/or $7 with a drink.",
            "Is the area of the picture dark?",
            "There are 10-15 people at 8:30.",
            "There are 10 - 15 people.",
            "How many dogs are there?",
            "What is the value of a coin like this?",
            "A 50% discount, number 3, in line A",
            "What is the length of the train?",
        ],
    ),
    speakable.has_code: (
        [
            "```print(1)```",
            "What does `x` do?",
            "<div>hello</div>",
            "def add(a, b):",
            "import numpy",
            "from os import path",
            "run(); stop();",
            "What does main() do?",
            "the variable user_name",
            "a cat --ar 16:9 --v 4",
            "Which programming language is this?",
            "What is the output of this code?",
            "Is it a Python script?",
            "public static void main(",
        ],
        [
            "Is the python in the picture a snake?",
            "What is the function of the red lever?",
            "From left to right: a cat (brown) and a dog.",
            "Who are the person(s)?",
            "import cars are parked here",
            "What is the code on the jersey?",
            "The sky -- and the sea",
            "The class is full: why?",
            "This program is on air; `help' is what `I' said.",
        ],
    ),
    speakable.has_link: (
        [
            "See https://example.test/x",
            "www.example.test says so",
            "Write to me@example.test",
            "It says bakery.com",
            "open cat.jpg",
        ],
        ["What is it? It is a net.", "The sign says example dot com.", "at 5 p.m. sharp"],
    ),
    speakable.has_table: (
        ["| a | b |\n|---|---|\n| 1 | 2 |", "name\tage", "a\n-----\nb"],
        ["a well-known table", "red | green", "- a dog\n- a cat"],
    ),
    speakable.has_coordinates: (
        ["[0.12, 0.30, 0.55, 0.91]", "at (0.5, 0.25)", "box [12, 40, 200, 310]"],
        ["in (1990, 2000)", "it is 0.5 metres, 0.7 metres", "the dogs [two]"],
    ),
    speakable.has_other_script: (["这是什么", "Что это", "α male"], ["Café Zoë, façade", "42!"]),
    speakable.has_symbols: (
        ["a ___ cat", "fine 😀", "a | b", "[sic]", "~5", "x → y"],
        ["Yes, it's fine (really); is it? 42!", "Cafe\u0301, a well-known one", 'the "sign": ok'],
    ),
    speakable.has_no_letters_or_digits: (["", " \n", "?!"], ["a", "5"]),
    needs_options: (
        [
            "Which of the following is red?",
            "Which one of these is a cat?",
            "Which option is correct?",
            "Which statement is true?",
            "What is in the picture among the given choices?",
            "Choose the right animal.",
            "What best describes the weather?",
            "",
            " ?",
        ],
        [
            "Which animal is red?",
            "Which of the two dogs is larger?",
            "What is behind the man?",
            "Answer the following question. What is it?",
            "Does the menu have vegan options?",
        ],
    ),
}


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (rule, text, expected)
        for rule, (taken, left_alone) in EXAMPLES.items()
        for texts, expected in ((taken, True), (left_alone, False))
        for text in texts
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:30]),
)
def test_a_rule_on_a_text(rule, text, expected):
    assert rule(text) is expected


def test_an_answer_at_the_limit_is_kept():
    assert not speakable.is_long_answer("word " * 100, 100)
    assert speakable.is_long_answer("word " * 101, 100)


COLOURS = MultipleChoice("What colour is it?", ("red", "dark green", "blue"))


@pytest.mark.parametrize(
    "text",
    [
        "What colour is it?\nA. red\nB. dark green\nC. blue",
        "What colour is it?\n(A) red\n(B) dark green\n(C) blue",
        "What colour is it?\nA) red\nB) dark green\nC) blue\nAnswer:",
        "What colour is it? (a) red (b) dark green (c) blue",
        "What colour is it? a) red, b) dark green, c) blue.",
        "What colour is it? A. red B. dark green C. blue",
        "What colour is it?\nA: red\nB: dark green\nC: blue",
        "Question: What colour is it?\nChoices:\n(A) red\n(B) dark green\n(C) blue",
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, "
        "at the end.\nQuestion: What colour is it?\nChoices:\n(A) red\n(B) dark green\n(C) blue",
        "What colour is it?\nA. red\nB. dark green\nC. blue\nAnswer with the option's letter from "
        "the given choices directly.",
        "What colour is it?\nA. red\nB. dark green\nC. blue. Please select the correct option.",
        "What colour is it?\nOptions: red, dark green, blue",
        "What colour is it?\nA. red\nB. dark green\nC. blue\nRespond with only the letter (A, B or "
        "C) of the correct option.\nThe best answer is:",
        "What colour is it?\nA. red\nB. dark green\nC. blue\nAnswer with the letter.",
        "What colour is it? The choices are: red; dark green; blue.",
    ],
)
def test_options_are_split_off(text):
    assert split_options(text) == COLOURS


def test_options_may_be_numbered():
    text = "What colour is it?\n1. red\n2. dark green\n3. blue"
    numbered = MultipleChoice(COLOURS.question, COLOURS.options, has_numbers=True)
    assert split_options(text) == numbered
    assert chosen_option_text("2", numbered) == "dark green"
    assert chosen_option_text("B", numbered) is None


@pytest.mark.parametrize(
    "text",
    [
        "What colour is it?",
        "Is it red or green?",
        "Is plan A. the better one?",
        "Does it open at 8 a.m. in Plan B. or later?",
        "Does the menu provide vegan options?",
        "Can you write the letter shown on the sign?",
    ],
)
def test_a_question_without_options_is_none(text):
    assert split_options(text) is None
    assert to_open_question(text, "yes") == (text, "yes")


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "B. dark green",
        "B: because it is",
        "The answer is B.",
        "The correct answer is (B).",
        "Answer: B",
        "Option B",
        "dark green",
        "Dark green.",
    ],
)
def test_the_answer_names_an_option(answer):
    assert chosen_option_text(answer, COLOURS) == "dark green"


@pytest.mark.parametrize("answer", ["D", "2", "A cat", "yellow", "", "Both"])
def test_the_answer_names_no_option(answer):
    assert chosen_option_text(answer, COLOURS) is None


@pytest.mark.parametrize(
    "option", ["All of the above", "none of the above", "both A and B", "neither (A) nor (B)"]
)
def test_an_option_about_the_others_is_no_answer(option):
    assert (
        chosen_option_text("C", MultipleChoice("What is it?", ("a cat", "a dog", option))) is None
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It costs $5.", "It costs 5 dollars."),
        ("$1, £1 and €2.50", "1 dollar, 1 pound and 2.50 euros"),
        ("$3 million", "3 million dollars"),
        ("¥100", "100 yen"),
        ("50% of them", "50 percent of them"),
        ("20 °C or 68°F", "20 degrees Celsius or 68 degrees Fahrenheit"),
        ("turned 90°", "turned 90 degrees"),
        ("Tom & Jerry", "Tom and Jerry"),
        ("#3 of the row", "number 3 of the row"),
        ("ages 18+", "ages 18 plus"),
        ("milk + sugar", "milk plus sugar"),
        ("yes/no", "yes or no"),
        ("3/4 of it", "3 over 4 of it"),
        ("12/05/2020", "12 05 2020"),
        ("1990–2000", "1990 to 2000"),
        ("the cat — a tabby — sleeps", "the cat, a tabby, sleeps"),
        ("fruit, e.g. apples vs. pears", "fruit, for example apples versus pears"),
        ("a cat\na dog.\na cow", "a cat. a dog. a cow"),
        ("a cat on a mat", "a cat on a mat"),
    ],
)  # fmt: skip
def test_symbols_become_words(text, said):
    assert speakable.replace_symbols_by_words(text) == said


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("**Red** and *blue*", "Red and blue"),
        ("# Title\n\n- a cat\n- a dog\n1. one", "Title\na cat\na dog\none"),
        ("“It’s” a “cat”…", '"It\'s" a "cat"...'),
        ("2 * 3 * 4", "2 * 3 * 4"),
    ],
)
def test_markdown_is_removed(text, plain):
    assert speakable.remove_markdown(text) == plain


@pytest.mark.parametrize(
    ("question", "answer", "rule"),
    [
        ("What is $x^2$?", "4", "maths"),
        ("What is it?", "x = 4", "maths"),
        ("What does main() do?", "It runs.", "code"),
        ("Where is it from?", "www.example.test", "link"),
        ("What is in it?", "| a | b |", "table"),
        ("Where is the cat?", "[0.1, 0.2, 0.3, 0.4]", "coordinates"),
        ("Which of the following is red?\nA. the cat\nB. the dog", "A", "needs the options"),
        ("What is it?\nA. a cat\nB. a dog", "C", "unclear choice"),
        ("What is it?", "word " * 101, "long answer"),
        ("What is it?", "一只猫", "script"),
        ("The animal is a ___.", "cat", "symbols"),
        ("What is it?", "?", "empty"),
    ],
)
def test_a_pair_is_left_out_by_a_rule(question, answer, rule):
    assert to_spoken_pair(question, answer) == LeftOut(rule)
    assert rule in speakable.RULES


def test_a_multiple_choice_is_spoken_as_an_open_question():
    pair = to_spoken_pair("How much is it?\nA. $5\nB. **$6**", "B")
    question = "How much is it?"
    assert pair == SpokenPair(SpokenText(question, question), SpokenText("$6", "6 dollars"))


def test_the_limit_of_answers_is_of_the_option_that_is_said():
    answer = "A. " + "because " * 200
    assert isinstance(to_spoken_pair("What is it?\nA. a cat\nB. a dog", answer), SpokenPair)
    assert to_spoken_pair("What is it?", "a red cat", max_answer_words=2) == LeftOut("long answer")


def test_a_caption_is_spoken_or_left_out():
    assert speakable.to_spoken_caption("Tom & *Jerry*") == SpokenText(
        "Tom & Jerry", "Tom and Jerry"
    )
    assert speakable.to_spoken_caption("word " * 101) != LeftOut("long answer")
    assert speakable.to_spoken_caption("a city --ar 16:9") == LeftOut("code")
    assert speakable.to_spoken_caption("😀") == LeftOut("empty")
    assert speakable.to_spoken_caption("a city 😀") == LeftOut("symbols")
