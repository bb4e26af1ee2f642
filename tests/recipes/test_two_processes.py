"""Two processes over gloo: equal replicas, and what one process would have trained."""

from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from lightning_omni.cli import main
from lightning_omni.losses.balancer import GradientBalancer
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule
from lightning_omni.nn.codec.lookup_free import LookupFreeQuantizer
from lightning_omni.nn.codec.residual_vq import ResidualQuantizer
from lightning_omni.nn.ranks import draw_normal, gather_ranks

RECIPES = Path(__file__).parents[2] / "recipes"
pytestmark = [
    pytest.mark.xdist_group("workplace"),
    pytest.mark.filterwarnings(
        "ignore:.*sync_dist.*", "ignore:.*fork.*", "ignore:.*grad strides.*", "ignore:.*gloo.*"
    ),
]


def in_two_processes(work, folder):
    """Run `work(rank)` in two processes; return what each returned."""
    mp.start_processes(_start, (work, str(folder)), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _start(rank, work, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def statistics(z):
    """Return the statistics of tokenizer training on latents of a batch, Float[B N D]."""
    rng = torch.Generator().manual_seed(1)
    book = ResidualQuantizer(4, 2, 8)
    vectors = gather_ranks(z.flatten(0, 1))
    book.initialise_codebooks(vectors, iterations=3, rng=rng)
    for levels in (2, 1, 2):
        book(z, num_codebooks=levels)
    for layer in book.layers.layers:
        layer._codebook.cluster_size[3] = 0.0
    restarted = book.restart_dead_codes(vectors, rng=rng)
    found = {name: value.clone() for name, value in book.state_dict().items()}
    latents = z.transpose(1, 2)[..., None].clone().requires_grad_()
    entropy = LookupFreeQuantizer(4)(latents).batch_entropy
    entropy.backward()
    wave = z.flatten(1).clone().requires_grad_()
    balanced = GradientBalancer({"a": 1.0}).gradient({"a": wave.square().mean()}, wave)
    own = {"entropy_grad": latents.grad, "balanced": balanced, "noise": draw_normal(z.shape, rng)}
    return {**found, "restarted": torch.tensor(restarted), "entropy": entropy.detach()}, own


def test_statistics_of_two_processes_are_those_of_the_whole_batch(tmp_path):
    z = torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(2))
    whole, whole_own = statistics(z)
    ranks = in_two_processes(lambda rank: statistics(z[rank * 4 :][:4]), tmp_path)
    for name, value in whole.items():
        assert torch.equal(ranks[0][0][name], ranks[1][0][name]), name
        torch.testing.assert_close(ranks[0][0][name], value, rtol=1e-4, atol=1e-5, msg=name)
    for name, value in whole_own.items():  # the mean over processes is the whole's gradient
        share = 1 if name == "noise" else 2
        both = torch.cat([ranks[rank][1][name] for rank in range(2)]) / share
        torch.testing.assert_close(both, value, rtol=1e-4, atol=1e-6, msg=name)


def two(name, out, *more):
    devices = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    recipe = ["--config", str(RECIPES / "debug" / f"{name}.yaml"), *devices]
    defaults = ["--run_defaults", "[logger,checkpoints,export]", "--trainer.callbacks", "null"]
    if name == "stage3":
        average = '[{"class_path": "lightning_omni.callbacks.ema.EMA"}]'
        defaults = [*defaults[:2], "--trainer.callbacks", average, "--trainer.precision", "32-true"]
    place = ["--trainer.default_root_dir", str(out), "--trainer.enable_progress_bar", "false"]
    return main(["fit", *recipe, *defaults, *place, *more])


@pytest.fixture
def replicas(monkeypatch):
    """Keep the state of the module of each process at the end of training."""

    def on_train_end(module):
        state = {k: v for k, v in module.state_dict().items() if torch.is_tensor(v)}
        torch.save(state, f"replica{module.global_rank}.pt")

    for cls in (ImageTokenizerModule, SpeechTokenizerModule, MaskedDiffusionModule):
        monkeypatch.setattr(cls, "on_train_end", on_train_end, raising=False)
    monkeypatch.setattr(L.Trainer, "print", lambda *args: None)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


STEPS = {"speech_tokenizer_seanet": (6, 12), "stage3": (3, 6)}
MORE_STEPS = {"image_tokenizer": (6, 12), "speech_tokenizer": (3, 9)}


def check_run(name, stop, end):
    assert two(name, "whole", "--trainer.max_steps", str(end)) == 0
    assert_equal(*(torch.load(f"replica{rank}.pt") for rank in range(2)))
    assert two(name, "half", "--trainer.max_steps", str(stop)) == 0
    checkpoint = ["--ckpt_path", "half/checkpoints/last.ckpt"]
    assert two(name, "half", "--trainer.max_steps", str(end), *checkpoint) == 0
    assert_equal(*(load_file(f"{out}/export/model.safetensors") for out in ("whole", "half")))


@pytest.mark.parametrize("name", STEPS)
def test_replicas_stay_equal_and_a_resumed_run_ends_like_an_unbroken_one(beside, replicas, name):
    beside("image_tokenizer", "speech_tokenizer")
    check_run(name, *STEPS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_STEPS)
def test_other_recipes_as_well(beside, replicas, name):
    beside()
    check_run(name, *MORE_STEPS[name])
