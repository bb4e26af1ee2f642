"""The benchmark compares like with like, and counts what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tar_files import write_question_shard

from lightning_omni.cli import main
from lightning_omni.nn.cpu import matmul_dtype
from lightning_omni.studies.bench import number_formats
from lightning_omni.studies.bench.data_loading import compare_loading, describe_row
from lightning_omni.studies.bench.growth import fit_exponent
from lightning_omni.studies.bench.peak_memory import measure_peak_mb
from lightning_omni.studies.bench.plot import draw_growth
from lightning_omni.studies.bench.rendering import (
    SHARES,
    make_paper_files,
    make_paper_template,
    measure_rendering,
)
from lightning_omni.studies.bench.timing import Timing, paired_ratio, time_alternating
from lightning_omni.studies.bench.workload import (
    Shape,
    count_useful_gflop,
    make_network,
    make_samples,
)

SMALL = Shape(dim=64, num_layers=1, vocab_size=50, tokens=60, shortest=5, longest=20)


def test_runs_take_turns_and_the_first_round_is_not_counted():
    calls = []
    timings = time_alternating(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3, warm_up=1
    )
    assert calls == ["a", "b"] * 4
    assert {len(t.seconds) for t in timings.values()} == {3}


def test_the_ratio_is_that_of_rounds_not_of_medians():
    assert paired_ratio(Timing((2.0, 8.0, 6.0)), Timing((1.0, 2.0, 3.0)))[0] == 2.0


def test_samples_fill_the_batch_and_hide_answers_only(rng):
    samples = make_samples(SMALL, rng=rng)
    assert sum(samples.lengths) > SMALL.tokens - SMALL.shortest
    assert all(SMALL.shortest <= n <= SMALL.tokens for n in samples.lengths)
    index = torch.cat([torch.arange(n) / n for n in samples.lengths])
    assert (index[samples.masked] >= 0.4).all()
    assert (samples.x_t != samples.x0).nonzero().squeeze(1).tolist() == samples.masked.tolist()


def test_useful_arithmetic_grows_with_samples_and_masks(rng):
    network, samples = make_network(SMALL, seed=0), make_samples(SMALL, rng=rng)
    tokens, masked = sum(samples.lengths), len(samples.masked)
    weights = sum(p.numel() for p in network.blocks.parameters() if p.ndim > 1)
    answering = 2 * SMALL.dim * SMALL.dim  # keys and values of the one block
    pairs = sum(n * n for n in samples.lengths) * masked // tokens
    expected = 6 * (answering * tokens + (weights - answering) * masked) + 12 * pairs * SMALL.dim
    expected += 6 * masked * SMALL.dim * SMALL.vocab_size
    assert count_useful_gflop(network, samples) == pytest.approx(expected / 1e9)


def test_both_formats_are_timed_and_the_chosen_one_is_the_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(number_formats, "NETWORKS", {"small": SMALL})
    args = ["bench", "--suite", "formats", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*args, "--repeats", "2"]) == 0
    (row,) = json.loads((tmp_path / "formats.json").read_text())["rows"]
    assert {row["chosen"], row["other"]} == {"float32", "bfloat16"}
    assert getattr(torch, row["chosen"]) is matmul_dtype("cpu")
    rounds = zip(row["step_s"]["other"]["seconds"], row["step_s"]["chosen"]["seconds"], strict=True)
    assert row["ratio"] == pytest.approx(sum(other / chosen for other, chosen in rounds) / 2)
    assert (tmp_path / "formats.png").stat().st_size > 1000


def test_both_sides_agree_on_loss_and_tokens(tmp_path):
    pytest.importorskip("transformers")
    small = ["--dim", "64", "--num_layers", "1", "--vocab_sizes", "[20000]", "--repeats", "2"]
    train = ["--tokens", "60", "--shortest", "5", "--longest", "20", "--memory", "false"]
    args = ["bench", "--suite", "train", "--out", str(tmp_path), "--dtype", "float32"]
    assert main([*args, *small, *train]) == 0
    (row,) = json.loads((tmp_path / "train.json").read_text())["rows"]
    assert row["loss"]["ours"] == pytest.approx(row["loss"]["peer"], rel=1e-5)
    assert row["loss"]["dllm"] == pytest.approx(row["loss"]["peer"], rel=1e-5)
    assert row["useful_tokens"] < row["padded_tokens"]
    sample = ["--suite", "sample", "--prompt", "5", "--answer", "8", "--steps", "[8, 3, 1]"]
    assert main(["bench", *sample, "--out", str(tmp_path), *small, *train]) == 0
    rows = json.loads((tmp_path / "sample.json").read_text())["rows"]
    assert [row["equal_tokens"] for row in rows] == [1.0, 1.0, 1.0, None]
    assert (rows[-1]["steps"], rows[-1]["peer_steps"]) == (2, 256)
    assert (tmp_path / "sample.png").stat().st_size > 1000


def test_isolated_prompts_are_timed_only_where_their_tokens_are_those_of_whole_passes(tmp_path):
    small = ["--dim", "64", "--num_layers", "2", "--vocab_sizes", "[200]", "--repeats", "1"]
    sizes = ["--prompt", "12", "--answer", "8", "--steps", "[8]", "--batches", "[1, 3]"]
    train = ["--tokens", "60", "--shortest", "5", "--longest", "20"]
    args = ["bench", "--suite", "cache", "--out", str(tmp_path), *small, *sizes, *train]
    assert main(args) == 0
    rows = json.loads((tmp_path / "cache.json").read_text())["rows"]
    assert [(row["prompt"], row["answer"], row["batch"]) for row in rows] == [
        *((12, 8, 1), (12, 8, 3), (8, 3, 1), (8, 3, 3))
    ]
    assert {row["equal_tokens"] for row in rows} == {1.0}
    assert (tmp_path / "cache.png").stat().st_size > 1000


def test_growth_is_the_slope_of_a_power_law_and_a_picture(tmp_path):
    assert fit_exponent({n: 3e-4 * n**1.5 for n in (10, 40, 90)}) == pytest.approx(1.5)
    row = {"against": "tokens", "seconds": {10: 1.0, 20: 2.0}, "exponent": 1.0}
    memory = {**row, "peak_mb": {10: 5.0, 20: 9.0}, "memory_exponent": 0.8}
    draw_growth({"rows": [row, memory]}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_counts_weights_gradients_and_both_moments():
    wide = replace(SMALL, dim=256, vocab_size=20_000)
    weights = sum(p.numel() for p in make_network(wide, seed=0).parameters()) * 4 / 2**20
    assert 4 * weights < measure_peak_mb("ours", wide, "float32", 0) < 8 * weights + 100


def test_samples_of_the_papers_sizes_are_rendered_and_packed():
    files = make_paper_files(seed=0)
    assert files.keys() == SHARES.keys()
    (answer,) = json.loads(files["t2i"][0]["json"])["turns"][1]["parts"]
    _, picture = json.loads(files["vqa"][0]["json"])["turns"][0]["parts"]
    assert (len(answer["image"]), len(picture["image"])) == (256, 1024)
    row = measure_rendering(
        make_paper_template(), files, SHARES, rows=2, batches=3, repeats=2, seed=0
    )
    assert row["tokens_per_cpu_s"] > 10_000
    assert row["parsed_tokens_per_cpu_s"] > 10_000
    assert "in 2 x 3072: " in describe_row(row)


# WebDataset leaves the shards open that it has not read to the end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reading_is_compared_on_real_shards(tmp_path):
    for i in range(3):
        keys = [f"k{i}{j}" for j in range(4)]
        write_question_shard(tmp_path / f"tqa-train-00000{i}.tar", keys)
    row = compare_loading(tmp_path, "tqa", samples=30, repeats=1, seed=0)
    assert row["samples_per_s"]["ours"] > 0
    assert row["ratios"].keys() >= {"webdataset"}
    assert min(row["samples_per_s"].values()) > 0
    assert main(["bench", "--suite", "data", "--out", str(tmp_path), "--repeats", "1"]) == 2
