"""The records of training and generation name what computed, as seen at the kernels themselves."""

import json

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_omni.callbacks.hyper_parameters import computation_of_run
from lightning_omni.callbacks.precision_plugin import BFloat16WhereFaster
from lightning_omni.callbacks.run_record import RunRecord, describe_computation, read_run_record
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.generation.omni import Omni
from lightning_omni.nn import segments
from lightning_omni.nn.attention import GroupedQueryAttention
from lightning_omni.nn.codec.magvit import SpatialAttention
from lightning_omni.nn.computation import computation_facts
from lightning_omni.nn.cpu import MAX_BF16_LENGTH
from lightning_omni.nn.segments import SegmentLayout


class Attending(L.LightningModule):
    """One layer of attention."""

    def __init__(self):
        super().__init__()
        self.attention = GroupedQueryAttention(
            16, num_heads=2, num_kv_heads=1, qkv_bias=False, qk_norm=False, norm_eps=1e-6
        )

    def training_step(self, batch, batch_idx):
        x = batch[0].to(self.attention.q_proj.weight.dtype)
        tokens = len(x)
        layout = SegmentLayout.from_lengths((tokens - 2, 2), device=x.device)
        angles = torch.ones(tokens, 8), torch.zeros(tokens, 8)
        return self.attention(x, *angles, layout).float().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder, max_steps=2, ckpt_path=None, lengths=(5, 5), own=(), **options):
    callback = RunRecord()
    trainer = L.Trainer(
        default_root_dir=folder,
        callbacks=[callback, *own],
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    module = Attending()
    batches = [torch.randn(length, 16) for length in lengths]
    trainer.fit(module, DataLoader(batches, num_workers=0), ckpt_path=ckpt_path)
    return trainer, module


@pytest.fixture(params=["sdpa", "flash_attn"])
def ran(request, monkeypatch):
    """Formats and kernels that ran; flash-attn is pretended."""
    found = set()

    def noting(name, kernel):
        def note(query, key, value, *layouts):
            found.add((str(query.dtype).removeprefix("torch."), name))
            return kernel(query, key, value, *layouts)

        return note

    kernels = {**segments._KERNELS, "flash_attn": segments._attend_per_segment}
    noted = {name: noting(name, kernel) for name, kernel in kernels.items()}
    monkeypatch.setattr(segments, "_KERNELS", noted)
    monkeypatch.setattr(segments, "attention_backend", lambda device: request.param)
    return found


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"precision": "32-true"}, "float32"),
        ({"precision": "bf16-true"}, "bfloat16"),
        ({"plugins": [BFloat16WhereFaster(always=True)]}, "bfloat16"),
    ],
)
def test_training_is_recorded_with_the_format_and_the_kernel_that_ran(
    tmp_path, ran, options, precision
):
    trainer, module = run(tmp_path, **options)
    (entry,) = read_run_record(tmp_path / "provenance.json")
    assert {(entry["precision"], entry["attention"])} == ran
    assert entry["precision"] == precision
    assert (entry["device"], entry["processes"], entry["strategy"]) == (
        "cpu",
        1,
        "SingleDeviceStrategy",
    )
    assert (entry["first_step"], entry["last_step"]) == (0, 2)
    assert computation_of_run(trainer) == {
        "used.device": "cpu",
        "used.precision": entry["precision"],
        "used.attention": entry["attention"],
    }
    assert not module.attention.q_proj._forward_hooks
    (line,) = describe_computation([entry])
    assert line == f"steps 0 to 2 on 1 x cpu, {precision}, attention by {entry['attention']}"


LONG = MAX_BF16_LENGTH + 3


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("lengths", "kernels"),
    [
        ((5, 5), "bf16_attention"),
        ((LONG, LONG), "sdpa"),
        ((5, LONG), "bf16_attention, sdpa"),
        ((LONG, 5), "bf16_attention, sdpa"),
    ],
)
def test_long_segments_are_recorded_with_the_kernel_that_they_get(tmp_path, ran, lengths, kernels):
    if segments.attention_backend("cpu") != "sdpa":
        pytest.skip("flash-attn takes all lengths")
    _, module = run(tmp_path, lengths=lengths, precision="bf16-true")
    (entry,) = read_run_record(tmp_path / "provenance.json")
    assert entry["attention"] == kernels == ", ".join(sorted(name for _, name in ran))
    assert not module.attention._forward_hooks


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_run_that_is_interrupted_has_recorded_all_kernels_so_far(tmp_path):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        run(tmp_path, lengths=(5, LONG, 5), precision="bf16-true", own=[Stop()], max_steps=3)
    (entry,) = read_run_record(tmp_path / "provenance.json")
    assert entry["attention"] == "bf16_attention, sdpa"


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_resumed_run_has_an_entry_for_each_start_and_a_new_run_one(tmp_path):
    trainer, _ = run(tmp_path, precision="32-true")
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = {"max_steps": 4, "ckpt_path": tmp_path / "a.ckpt"}
    run(tmp_path, plugins=[BFloat16WhereFaster(always=True)], **resumed)
    starts = read_run_record(tmp_path / "provenance.json")
    assert [(s["first_step"], s["last_step"], s["precision"]) for s in starts] == [
        (0, 2, "float32"),
        (2, 4, "bfloat16"),
    ]
    run(tmp_path)
    assert len(read_run_record(tmp_path / "provenance.json")) == 1


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "provenance.json").write_text("[")
    with pytest.raises(OmniError, match="delete it"):
        read_run_record(tmp_path / "provenance.json")


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_an_answer_is_recorded_with_the_format_and_the_kernel_that_ran(ran, precision):
    omni = Omni.bundled()
    assert omni.describe_computation() == {}
    answer = omni.generate("tqa", text="what is it?", num_steps=1, precision=precision)
    record = answer.record
    assert {(record["precision"], record["attention"])} == ran
    assert record["precision"] == {"auto": "float32"}.get(precision, precision)
    assert omni.describe_computation() == {k: record[k] for k in ("precision", "attention")}


def test_an_answer_to_a_long_request_is_recorded_with_the_kernel_of_long_segments(ran):
    if segments.attention_backend("cpu") != "sdpa":
        pytest.skip("flash-attn takes all lengths")
    omni = Omni.bundled()
    for text, kernels in (("what is it?", "bf16_attention"), ("what is it? " * 300, "sdpa")):
        ran.clear()
        answer = omni.generate("tqa", text=text, num_steps=1, precision="bfloat16")
        assert answer.record["attention"] == kernels
        assert {name for _, name in ran} == {kernels}
    assert omni.describe_computation()["attention"] == "bf16_attention, sdpa"


def test_what_has_no_attention_has_no_kernel():
    assert computation_facts(nn.Linear(2, 2)) == {"precision": "float32"}
    assert computation_facts(nn.Linear(2, 2), [torch.bfloat16, torch.float32]) == {
        "precision": "bfloat16, float32"
    }
    assert computation_facts(SpatialAttention(8, 2).double()) == {
        "precision": "float64",
        "attention": "sdpa",
    }
    assert computation_facts(SpatialAttention(8, 2), []) == {}


def test_facts_of_a_machine_claim_no_kernel():
    assert not {"attention", "precision"} & provenance().keys()
    json.dumps(provenance())
