"""A plan adds up, follows the recipe, and says what to change."""

import gc
import json
import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_omni.cli import build_cli, main
from lightning_omni.errors import OmniError
from lightning_omni.nn.flops import block_flops, training_flops
from lightning_omni.studies.bench.peak_memory import measure_peak_mb
from lightning_omni.studies.bench.workload import (
    Shape,
    make_network,
    make_position_ids,
    make_samples,
)
from lightning_omni.studies.memory_plan.device_load import DeviceLoad
from lightning_omni.studies.memory_plan.memory import (
    estimate_device_memory,
    optimizer_bytes,
    update_bytes,
)
from lightning_omni.studies.memory_plan.parameters import count_parameters_by_part
from lightning_omni.studies.memory_plan.settings import PlanOptions, read_trainer_settings
from lightning_omni.studies.memory_plan.step_time import IMAGE_TOKENIZER, step_time
from lightning_omni.studies.memory_plan.tokenizer_plan import plan_tokenizer

RECIPES = Path(__file__).parents[3] / "recipes"
PAPER = str(RECIPES / "paper/stage1.yaml")
SHAPE = Shape(dim=128, num_layers=4, vocab_size=500)
LOAD = DeviceLoad(tokens=1024, segment_length=256, masked_share=0.25)
TRAINER = {
    "precision": None,
    "plugins": None,
    "devices": "auto",
    "num_nodes": 1,
    "accumulate_grad_batches": 1,
    "max_steps": -1,
    "strategy": "auto",
    "callbacks": None,
}


def network(**changes):
    with torch.device("meta"):
        return make_network(replace(SHAPE, device="meta", **changes), seed=0)


def plan(tmp_path, *args):
    out = tmp_path / "plan.json"
    assert main(["plan", *args, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_parts_of_the_parameters_add_up():
    counted = count_parameters_by_part(network())
    assert sum(n for name, n in counted.items() if name != "total") == counted["total"]
    assert counted["embedding"] == counted["head"] == SHAPE.vocab_size * SHAPE.dim


def test_arithmetic_is_linear_in_samples_and_quadratic_in_their_length():
    net = network()
    one, two = (training_flops(net, [100] * n, 40 * n) for n in (1, 2))
    assert two == 2 * one
    more = training_flops(net, [200], 80) - two
    blocks = SHAPE.num_layers - 1 + 0.4  # the last one's answers ask only where there is a loss
    assert more == 12 * (200**2 - 2 * 100**2) * SHAPE.dim * blocks


def test_where_all_tokens_have_a_loss_every_weight_of_a_block_takes_every_token():
    net = network()
    in_blocks = sum(p.numel() for p in net.blocks.parameters() if p.ndim > 1)
    pairs = 12 * 100**2 * SHAPE.dim * SHAPE.num_layers
    assert block_flops(net, [100], 100) == 6 * 100 * in_blocks + pairs


def test_recomputation_keeps_less_and_does_not_change_what_stays():
    net = network(num_layers=12)
    whole, some, less = (
        estimate_device_memory(net, replace(LOAD, recomputation=r))
        for r in ("none", "selective", "full")
    )
    assert less.peak < some.peak < whole.peak
    assert less.activations < whole.activations / 4
    assert less.activations < some.activations < whole.activations * 0.7
    assert (less.weights, less.optimizer) == (whole.weights, whole.optimizer)


class Kept:
    """Memory of the tensors that a forward pass leaves behind, parameters aside."""

    def __init__(self, network):
        self.storages, self.known = {}, set(self.found())
        self.known |= {p.untyped_storage().data_ptr() for p in network.parameters()}

    def found(self):
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
        stores = [tensor.untyped_storage() for tensor in tensors if not tensor.is_meta]
        return {store.data_ptr(): store.nbytes() for store in stores}

    def keep(self, tensor):
        store = tensor.untyped_storage()
        self.storages[store.data_ptr()] = store.nbytes()
        return tensor

    def bytes(self):
        every = {**self.storages, **self.found()}
        return sum(size for pointer, size in every.items() if pointer not in self.known)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_plan_keeps_is_what_a_forward_pass_keeps(dtype):
    shape = Shape(dim=192, num_layers=5, vocab_size=50, tokens=800, shortest=9, longest=11)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(0))
    products, predicted, measured = getattr(torch, dtype), {}, {}
    for recomputation in ("none", "selective", "full"):
        net = make_network(shape, seed=0)
        net.recompute_activations(recomputation)
        load = DeviceLoad(len(samples.x0), 10, 1.0, products=products, device="cpu")
        load = replace(load, recomputation=recomputation)
        predicted[recomputation] = estimate_device_memory(net, load).activations
        position_ids = make_position_ids(samples.lengths, device="cpu")
        kept = Kept(net)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        hooks = torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda x: x)
        with autocast, nullcontext() if recomputation == "selective" else hooks:
            states = net(samples.x_t, position_ids, samples.segment_layout)
        measured[recomputation] = kept.bytes()
        assert states.requires_grad
    for recomputation in ("none", "selective"):  # both keep the inputs, and what is around blocks
        wanted = measured[recomputation] - measured["full"]
        counted = predicted[recomputation] - predicted["full"]
        assert counted == pytest.approx(wanted, rel=0.1), (recomputation, predicted, measured)


def test_devices_that_share_hold_their_share():
    net = network()
    one = estimate_device_memory(net, replace(LOAD, has_ema=True))
    shared = estimate_device_memory(net, replace(LOAD, has_ema=True, devices=8, is_sharded=True))
    for name in ("weights", "gradients", "optimizer", "ema"):
        assert getattr(shared, name) == getattr(one, name) // 8
    assert shared.exchange > 0
    assert one.exchange == 0


def test_muon_keeps_one_number_for_a_matrix_and_adamw_two():
    net = network()
    loads = [replace(LOAD, optimizer=kind) for kind in ("fused_adamw", "muon")]
    adamw, muon = (optimizer_bytes(net, load) for load in loads)
    matrices = sum(p.numel() for p in net.blocks.parameters() if p.ndim > 1)
    assert adamw - muon == 4 * matrices
    assert update_bytes(net, loads[1]) > update_bytes(net, loads[0]) == 0


def test_settings_follow_the_trainer_s():
    plain = read_trainer_settings(TRAINER)
    assert (plain.devices, plain.is_sharded, plain.has_ema) == (1, False, False)
    changed = {
        "precision": "bf16-mixed",
        "devices": 4,
        "num_nodes": 2,
        "strategy": "fsdp",
        "callbacks": [{"class_path": "lightning_omni.callbacks.ema.EMA"}],
    }
    found = read_trainer_settings({**TRAINER, **changed})
    assert (found.devices, found.is_sharded, found.has_ema) == (8, True, True)
    assert (found.weights, found.products) == (torch.float32, torch.bfloat16)
    with pytest.raises(OmniError, match=r"trainer\.precision is '64-true'"):
        read_trainer_settings({**TRAINER, "precision": "64-true"})


def test_the_paper_s_plan_fits_where_it_is_shared(tmp_path):
    made = plan(tmp_path, "--config", PAPER)
    assert made["parameters"]["total"] == 7_789_082_112
    assert made["tokens_per_step"] == 128 * 3072
    assert made["fits"]
    assert made["memory_gb"]["replicated, recomputed"]["peak"] > 16 * 7.789
    days = made["flops_with_recomputation"] / (8 * 989.4e12 * 0.35) * 24_000 / 86_400
    assert made["days"] == pytest.approx(days)
    assert made["gpu_days"] == pytest.approx(8 * days)


def test_a_kind_of_gpu_stands_for_its_memory_and_its_peak():
    a100, h200 = PlanOptions(gpu="A100"), PlanOptions(gpu="H200")
    assert (a100.memory_gb, a100.peak_flop_per_s) == (80, 312e12)
    assert (h200.memory_gb, h200.peak_flop_per_s) == (141, 989.4e12)
    own = PlanOptions(gpu="H200", gpu_memory_gb=40, gpu_tflops=100)
    assert (own.memory_gb, own.peak_flop_per_s) == (40, 100e12)


@pytest.mark.parametrize(
    ("options", "seconds", "said"),
    [
        (
            PlanOptions(),
            1,
            "10% of 989.4 TFLOP/s, NVIDIA's datasheet for dense bfloat16 on an H100",
        ),
        (PlanOptions(), 1, "7 to 16 % by what Open-MAGVIT2's authors report"),
        (PlanOptions(gpu="A100", utilisation=0.5), 98.94 / 156, "(as given by --utilisation)"),
        (PlanOptions(gpu_tflops=100), 9.894, "10% of 100 TFLOP/s, as given by --gpu_tflops"),
        (PlanOptions(seconds_per_step=0.25), 0.25, "as measured"),
    ],
)
def test_a_time_says_where_it_is_from(options, seconds, said):
    time = step_time(98.94e12, options, IMAGE_TOKENIZER)
    assert time.seconds == pytest.approx(seconds)
    assert said in time.source


@pytest.mark.parametrize(
    ("name", "share"), [("stage1", 0.35), ("image_tokenizer", 0.1), ("speech_tokenizer", 0.01)]
)
def test_a_plan_s_time_is_told_with_its_source_and_a_measured_one_counts(
    name, share, tmp_path, caplog
):
    recipe = ["--config", str(RECIPES / f"paper/{name}.yaml")]
    with caplog.at_level(logging.INFO):
        made = plan(tmp_path, *recipe)
    assert f"time: {share:.0%} of 989.4 TFLOP/s" in caplog.text
    assert "assumed" in made["time_from"]
    measured = plan(tmp_path, *recipe, "--seconds_per_step", "2")
    assert measured["time_from"].startswith("as measured")
    assert measured["days"] == pytest.approx(2 * measured["steps"] / 86_400)


@pytest.mark.parametrize("name", ["image_tokenizer", "speech_tokenizer"])
def test_the_paper_s_tokenizers_are_planned(name, tmp_path):
    made = plan(tmp_path, "--config", str(RECIPES / f"paper/{name}.yaml"))
    parts = made["parameters"]
    assert sum(n for part, n in parts.items() if part != "total") == parts["total"]
    assert made["fits"]
    one, whole, shared = (made["memory_gb"][s] for s in ("single", "ddp", "fsdp2"))
    trained = parts["tokenizer"] + parts["discriminator"]
    assert one["gradients"] == whole["gradients"] == pytest.approx(4 * trained / 1e9)
    assert shared["optimizer"] == pytest.approx(whole["optimizer"] / 8)
    assert made["days"] == pytest.approx(made["seconds_per_step"] * made["steps"] / 86_400)


def image_plan_inputs(batch):
    with torch.device("meta"):
        recipe = str(RECIPES / "image_tokenizer.yaml")
        cli = build_cli(["--config", recipe], run=False, with_trainer=False)
    cli.datamodule.batch_size = batch
    return cli.model, cli.datamodule, read_trainer_settings(TRAINER), PlanOptions()


def test_products_and_what_an_update_holds_are_linear_in_a_tokenizer_s_batch():
    few, many = (plan_tokenizer(*image_plan_inputs(batch)) for batch in (8, 32))
    assert many["flops_per_step"] == pytest.approx(4 * few["flops_per_step"], rel=0.01)
    held = [
        made["memory_gb"]["single"]["activations"] + made["memory_gb"]["single"]["gradients"]
        for made in (few, many)
    ]
    assert held[1] == pytest.approx(4 * held[0], rel=0.05)


def test_the_plan_counts_a_projector_where_there_is_one(tmp_path):
    plain = plan(tmp_path, "--config", PAPER)
    hears = plan(tmp_path, "--config", PAPER, "--model.backbone.init_args.continuous_dim", "512")
    assert "projector" not in plain["parameters"]
    assert hears["parameters"]["projector"] == 14_681_088
    assert hears["parameters"]["total"] == 7_789_082_112 + 14_681_088
    weights = [made["memory_gb"]["replicated"]["weights"] for made in (plain, hears)]
    assert weights[1] - weights[0] == pytest.approx(4 * 14_681_088 / 1e9)


def test_what_does_not_fit_comes_with_what_would(tmp_path):
    made = plan(tmp_path, "--config", PAPER, "--devices", "1")
    assert not made["fits"]
    assert made["advice"] == "set model.recompute_activations: full, take 2 devices"
    again = plan(tmp_path, "--config", PAPER, "--devices", "4")
    assert again["fits"]
    backbone = ["--model.backbone", str(RECIPES / "model/7b.yaml")]
    muon = plan(tmp_path, "--config", str(RECIPES / "stage3.yaml"), *backbone)
    assert "share the model with FSDP" in muon["advice"]
    assert muon["optimizer"] == "muon"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config", PAPER, "--devices", "0"], "devices is 0"),
        (["--config", PAPER, "--utilisation", "2"], "utilisation is 2"),
        (["--config", PAPER, "--seconds_per_step", "0"], "seconds_per_step is 0"),
        (["--config", PAPER, "--segment_length", "4000"], "segment_length is 4000"),
        (["--config", PAPER, "--gpu_tflops", "0.5"], "gpu_tflops is 0.5"),
    ],
)
def test_what_cannot_be_planned_is_refused(args, words, capsys):
    assert main(["plan", *args]) == 2
    assert words in capsys.readouterr().err


SIZES = {
    "deep": Shape(dim=256, num_layers=4, vocab_size=8000, tokens=2048),
    "many_ids": Shape(dim=256, num_layers=2, vocab_size=60_000, tokens=1024),
    "many_tokens": Shape(dim=512, num_layers=3, vocab_size=4000, tokens=4096),
}
TINY = Shape(dim=64, num_layers=2, vocab_size=100, tokens=60, shortest=15, longest=30)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SIZES)
def test_the_predicted_peak_is_that_of_real_steps(name, dtype, recomputes, monkeypatch):
    """What a process takes for itself is told by a step with hardly any weights."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed goes back at once
    shape = replace(SIZES[name], recomputes=recomputes)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(0))
    tokens = sum(samples.lengths)
    load = DeviceLoad(
        tokens,
        sum(n * n for n in samples.lengths) // tokens,
        len(samples.masked) / tokens,
        products=getattr(torch, dtype),
        device="cpu",
        recomputation="full" if recomputes else "none",
        keeps_gradients=False,
    )
    with torch.device("meta"):
        net = make_network(replace(shape, device="meta"), seed=0)
    predicted = estimate_device_memory(net, load).peak / 2**20
    own = measure_peak_mb("ours", replace(TINY, recomputes=recomputes), dtype, 0)
    assert predicted == pytest.approx(measure_peak_mb("ours", shape, dtype, 0) - own, rel=0.1)
