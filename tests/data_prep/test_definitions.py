"""WordNet's entries become questions and answers, no question in both files."""

import json

from data_prep.definitions import read_definitions, write_definitions

ENTRY = "0000{n} 03 n {count:02x} {words} 001 @ 00001740 n 0000 | {gloss}  "


def write_wordnet(folder, entries):
    head = "  1 This software and database is being provided\n"
    for part in ("noun", "verb", "adj", "adv"):
        lines = entries if part == "noun" else []
        (folder / f"data.{part}").write_text(head + "\n".join(lines) + "\n")


def entry(n, words, gloss):
    spelled = " ".join(f"{word} 0" for word in words)
    return ENTRY.format(n=n, count=len(words), words=spelled, gloss=gloss)


def test_words_are_spelled_out_and_the_licence_is_no_entry(tmp_path):
    write_wordnet(tmp_path, [entry(1, ["giant_whale", "whale(a)"], 'a mammal; "it swims"')])
    assert list(read_definitions(tmp_path)) == [("giant whale, whale", 'a mammal; "it swims"')]


def test_entries_with_the_same_words_are_in_one_file(tmp_path):
    entries = [entry(n, [f"word{n % 1500}"], f"meaning {n}") for n in range(3000)]
    write_wordnet(tmp_path, entries)
    train, val = write_definitions(tmp_path, tmp_path / "out")
    assert train + val == 3000
    files = [(tmp_path / f"out/{name}.jsonl").read_text().splitlines() for name in ("train", "val")]
    asked = [{json.loads(line)["messages"][0]["content"] for line in lines} for lines in files]
    assert [len(lines) for lines in files] == [train, val]
    assert not asked[0] & asked[1]
    assert len(asked[1]) <= 1000
