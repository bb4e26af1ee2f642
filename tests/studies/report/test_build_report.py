import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_omni.errors import OmniError
from lightning_omni.studies.report.build_report import build_report
from lightning_omni.studies.report.curves import Curve, draw_curves, group_curves, read_curves
from lightning_omni.studies.report.data_uris import log_spectrogram
from lightning_omni.studies.report.gallery import gallery_html

NASTY = "<script>alert('&')</script>\"“"


def row(task="vqa", **changes):
    plain = {
        **{"task": task, "split": "test_iid", "metric": "exact", "slice": None, "is_primary": True},
        **{
            "is_lower_better": False,
            "value": 0.4,
            "low": 0.3,
            "high": 0.5,
            "n": 100,
            "chance": 0.1,
        },
        **{"ceiling": 1.0, "reconstruction": None, "failures": 3, "verdict": "better than chance"},
        **{"chance_rule": NASTY, "ceiling_rule": "truth"},
    }
    return {**plain, **changes}


def write_stage(folder, scalars):
    with SummaryWriter(str(folder)) as writer:
        for name, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(name, value, step)


def write_evaluation(folder, rows, entries=()):
    folder.mkdir(parents=True)
    results = {"rows": rows, "missing": [], "created": "now", "commit": None, "arguments": {}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "gallery.json").write_text(json.dumps(list(entries)))


def entry(folder):
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    soundfile.write(folder / "a.flac", np.zeros(1600), 16000)
    side = {"text": NASTY, "image": "a.png", "speech": "a.flac"}
    return {
        **{
            "task": "vqa",
            "split": "test_iid",
            "key": "k",
            "meta": {"kind": NASTY},
            "request": side,
        },
        **{"ground_truth": side, "generated": {}, "failure": NASTY, "metrics": {"exact": [0, 1]}},
        "reading": {"text": NASTY, "transcript": NASTY},
    }


class Tags(HTMLParser):
    """Collects start tags and checks that every tag that opens also closes."""

    void = ("meta", "img", "line", "circle", "polyline")

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(path):
    tags = Tags()
    tags.feed(path.read_text())
    assert tags.open == []
    return tags.seen


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "demo"
    write_stage(folder / "stage1", {"train/loss": [3, 2, 1], "val/loss": [2.5], "lr": [1e-3, 1e-4]})
    (folder / "stage1" / "config.yaml").write_text(f"seed: 1 # {NASTY}\n")
    write_evaluation(folder / "eval", [row(), row(split="test_comp"), row(slice=NASTY)])
    entries = [entry(folder / "eval")]
    (folder / "eval/gallery.json").write_text(json.dumps(entries))
    return folder


def test_a_page_needs_nothing_from_outside(run):
    for tag, attributes in parse(build_report(run)):
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)


def test_whatever_a_model_says_stays_text(run):
    page = build_report(run).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert" in page


def test_a_page_shows_scores_curves_pictures_and_sound(run):
    tags = parse(build_report(run))
    names = [tag for tag, _ in tags]
    assert names.count("audio") == 2
    assert sum(a.get("class") == "picture" for _, a in tags) == 2
    assert "polyline" in names
    page = (run / "report.html").read_text()
    assert "0.400" in page
    assert "test_comp" in page


def test_a_page_says_what_is_missing(run):
    page = build_report(run).read_text()
    assert "training of image_tokenizer" in page
    assert "training of stage1" not in page


def test_training_alone_and_evaluation_alone_can_be_reported(tmp_path):
    write_stage(tmp_path / "a" / "stage1", {"train/loss": [1.0, float("nan")]})
    assert "Not evaluated yet" in build_report(tmp_path / "a").read_text()
    write_evaluation(tmp_path / "b" / "eval", [row("asr", metric="wer", is_lower_better=True)])
    out = build_report(tmp_path / "b", tmp_path / "elsewhere" / "page.html")
    assert "word error rate ↓" in out.read_text()
    assert "No TensorBoard events" in out.read_text()


def test_a_run_without_anything_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(OmniError, match="neither TensorBoard events nor"):
        build_report(tmp_path)
    with pytest.raises(OmniError, match="no run at"):
        build_report(tmp_path / "absent")


def test_a_gallery_cannot_reach_outside_its_folder(run):
    entries = json.loads((run / "eval/gallery.json").read_text())
    entries[0]["request"]["image"] = "../../secret.png"
    (run / "eval/gallery.json").write_text(json.dumps(entries))
    with pytest.raises(OmniError, match="leaves"):
        build_report(run)


def test_a_gallery_with_old_keys_reads_the_same(tmp_path):
    new = entry(tmp_path)
    names = {"request": "asked", "ground_truth": "wanted"}
    old = {names.get(key, key): value for key, value in new.items()}
    assert gallery_html(tmp_path, [old]) == gallery_html(tmp_path, [new])
    assert "ground truth" in gallery_html(tmp_path, [old])


def test_a_falling_loss_falls_on_the_page():
    drawn = draw_curves("loss", [Curve("train/loss", [0, 1, 2], [3.0, 2.0, 1.0])])
    points = re.search(r'points="([^"]+)"', drawn)[1].split()
    heights = [float(p.split(",")[1]) for p in points]
    assert heights == sorted(heights)


def test_training_and_validation_of_one_quantity_share_a_chart_and_losses_lead():
    curves = [Curve(n, [0], [1.0]) for n in ("train/psnr", "val/loss", "train/loss_step", "lr")]
    groups = group_curves(curves)
    assert next(iter(groups)) == "loss"
    assert len(groups["loss"]) == 2


def test_the_whole_loss_leads_then_what_is_judged_then_parts_of_the_loss():
    names = ("train_loss/entropy", "tokenizer/image/psnr_db", "optim/lr", "train/loss")
    groups = list(group_curves([Curve(name, [0], [1.0]) for name in names]))
    assert groups == ["loss", "tokenizer/image/psnr_db", "loss/entropy", "optim/lr"]


@pytest.mark.parametrize("low", [0.0, 0.1, -1.0])
def test_an_axis_goes_below_zero_only_for_values_that_do(low):
    drawn = draw_curves("x", [Curve("x", [0, 1], [low, 5.0])])
    ticks = [float(t) for t in re.findall(r'text-anchor="end">([^<]+)<', drawn)]
    assert (min(ticks) < 0) == (low < 0)


def test_a_curve_without_finite_values_is_not_drawn():
    assert draw_curves("x", [Curve("x", [0, 1], [float("nan"), float("inf")])]) == ""


def test_a_tone_is_brightest_at_its_frequency():
    wave = np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000).astype(np.float32)
    levels = log_spectrogram(wave)
    brightest = levels.mean(axis=1).argmax() / levels.shape[0] * 8000
    assert abs(brightest - 2000) < 100
    assert levels.min() >= 0
    assert levels.max() <= 1


def test_a_run_started_again_shows_the_newer_values_where_files_overlap(tmp_path):
    write_stage(tmp_path, {"train/loss": [9.0, 8.0, 7.0]})
    (first,) = tmp_path.iterdir()
    os.utime(first, (1, 1))
    first.rename(tmp_path / "events.out.tfevents.0.host.1")
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train/loss", 1.0, 1)
    (curve,), _ = read_curves(tmp_path)
    assert (curve.steps, curve.values) == ([0, 1], [9.0, 1.0])


def test_time_between_a_stop_and_the_next_start_does_not_count(tmp_path):
    for number, (begin, first) in enumerate([(1000, 0), (5000, 2)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{number}") as writer:
            for step in range(first, first + 4):
                writer.add_scalar("train/loss", 1.0, step, walltime=begin + 10 * step)
        newest = max(tmp_path.iterdir(), key=lambda path: path.name.endswith(f".{number}"))
        os.utime(newest, (number, number))
    (curve,), seconds = read_curves(tmp_path)
    assert curve.steps == [0, 1, 2, 3, 4, 5]
    assert seconds == 10 + 30


def test_a_run_shows_its_own_stages_results_and_tokenizers_not_those_of_runs_inside_it(tmp_path):
    write_stage(tmp_path / "stage1", {"train/loss": [3.0, 2.0]})
    write_stage(tmp_path / "demo/stage2", {"train/loss": [9.0, 8.0]})
    write_evaluation(tmp_path / "eval", [row(value=0.111)])
    write_evaluation(tmp_path / "demo/eval", [row(value=0.222)])
    os.utime(tmp_path / "eval/results.json", (1, 1))
    (tmp_path / "tokenizers_eval").mkdir()
    table = "| split | n | PSNR dB |\n|---|---|---|\n| test_iid | 1000 | 25.68 |\n"
    (tmp_path / "tokenizers_eval/tokenizers.md").write_text(table)
    page = build_report(tmp_path).read_text()
    assert "0.111" in page
    assert "0.222" not in page
    assert "stage2" not in page.partition("Training</h2>")[2].partition("<h2")[0]
    assert ">25.68</td>" in page


def test_results_of_a_run_inside_are_not_taken_for_the_run_s_own(tmp_path):
    write_stage(tmp_path / "stage1", {"train/loss": [3.0, 2.0]})
    write_evaluation(tmp_path / "demo/eval", [row(value=0.222)])
    page = build_report(tmp_path).read_text()
    assert "0.222" not in page
    assert "Not evaluated yet" in page


def test_the_tokenizers_table_shows_their_scores_and_not_how_they_were_trained(tmp_path):
    scalars = {
        "tokenizer/image/psnr_db": [20.0, 24.5],
        "optim/lr": [0.125],
        "perf/compute_s": [7.5],
    }
    write_stage(tmp_path / "image_tokenizer", scalars)
    table = build_report(tmp_path).read_text().partition("<h2>Tokenizers</h2>")[2]
    table = table.partition("<h2")[0]
    assert "24.5" in table
    assert "optim/lr" not in table
    assert "perf/compute_s" not in table
