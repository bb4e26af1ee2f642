"""The average of the weights: its numbers, its place, its checkpoints."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from lightning_omni.callbacks.ema import EMA, move_by_one_kernel, move_towards
from lightning_omni.errors import OmniError


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.validated = []

    def training_step(self, x, index):
        self.seen += 1
        return self.layer(x).square().mean()

    def validation_step(self, x, index):
        self.validated.append(self.layer.weight.detach().clone())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data():
    return DataLoader(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), batch_size=2)


def trainer(folder, *callbacks, **more):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"accelerator": "cpu", "max_epochs": 2, "num_sanity_val_steps": 0, **quiet, **more}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **given)


def fit(folder, average, path=None, **more):
    torch.manual_seed(0)
    model = Line()
    run = trainer(folder, average, enable_checkpointing=False, **more)
    run.fit(model, data(), data(), ckpt_path=path)
    return model, run


def assert_equal(one, two):
    parameters = dict(two.named_parameters())  # Lightning's leaves buffers behind, as it was
    for name, value in one.named_parameters():
        assert torch.equal(parameters[name], value), name


@pytest.mark.parametrize("every", [1, 3])
def test_weights_are_lightnings_to_the_bit(tmp_path, every):
    theirs, _ = fit(
        tmp_path, EMAWeightAveraging(decay=0.9, use_buffers=False, update_every_n_steps=every)
    )
    ours, _ = fit(tmp_path, EMA(decay=0.9, every_n_steps=every))
    assert_equal(theirs, ours)
    for one, two in zip(theirs.validated, ours.validated, strict=True):
        assert torch.equal(one, two)  # validation sees averaged weights


def test_one_kernel_averages_as_several_do(rng):
    """What GPUs compute by, here on a CPU."""
    for decay in (0.0, 0.3, 0.9, 0.9999, 1.0):
        shapes = [(3, 5), (7,), (), (0, 4)]
        averaged, current = ([torch.randn(s, generator=rng) for s in shapes] for _ in "ac")
        moved = [x.clone() for x in averaged]
        move_towards(averaged, current, decay)
        move_by_one_kernel(moved, current, decay)
        torch.testing.assert_close(moved, averaged, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("average", [EMA(decay=0.9), EMAWeightAveraging(0.9, use_buffers=False)])
@pytest.mark.filterwarnings("ignore:.*ckpt_path.*", "ignore:.*use_buffers.*")
def test_a_resumed_run_ends_like_an_unbroken_one_and_takes_over_lightnings_average(
    tmp_path, average
):
    if not isinstance(average, EMA):
        average = EMAWeightAveraging(decay=0.9, use_buffers=False)
    whole, _ = fit(tmp_path, EMA(decay=0.9))
    saved = tmp_path / "half.ckpt"

    class Save(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(saved)

    torch.manual_seed(0)
    model = Line()
    run = trainer(tmp_path, average, Save(), enable_checkpointing=False, max_epochs=1)
    run.fit(model, data(), data())
    resumed, _ = fit(tmp_path, EMA(decay=0.9), saved)
    assert_equal(whole, resumed)


def test_a_test_of_a_checkpoint_uses_the_average(tmp_path):
    model, run = fit(tmp_path, EMA(decay=0.9))
    current = torch.randn(1, 3)
    average = model.layer.weight.detach().clone()
    with torch.no_grad():
        model.layer.weight.copy_(current)
    run.save_checkpoint(tmp_path / "x.ckpt")
    tested = Line()
    trainer(tmp_path, EMA(decay=0.9)).test(
        tested, data(), ckpt_path=tmp_path / "x.ckpt", verbose=False
    )
    assert torch.equal(tested.validated[0], average)
    assert torch.equal(tested.layer.weight, current)


def test_averaged_weights_are_put_in_for_a_while():
    module, average = Line(), EMA()
    average.on_fit_start(None, module)
    kept = module.layer.weight.detach().clone()
    with torch.no_grad():
        module.layer.weight.add_(1)
    average.swap_weights(module)
    assert torch.equal(module.layer.weight, kept)
    average.swap_weights(module)
    assert torch.equal(module.layer.weight, kept + 1)


def test_nonsense_is_refused():
    with pytest.raises(OmniError, match="decay"):
        EMA(decay=1.5)
    with pytest.raises(OmniError, match="every_n_steps"):
        EMA(every_n_steps=0)
