import json

from lightning_omni.cli import main


def test_bench_measures_training_and_sampling(tmp_path):
    out = tmp_path / "bench.json"
    args = ["--dim", "64", "--num_layers", "1", "--vocab_size", "50", "--num_segments", "2"]
    args += ["--segment_length", "8", "--answer_length", "8", "--steps", "2", "--repeats", "1"]
    assert main(["bench", "--out", str(out), *args]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["train_tokens_per_s"] > 0
    assert numbers["sample_s"]["median"] > 0
    assert numbers["train_share_of_fp32_gemm"] > 0
