"""Kernels that a CPU's library prepares are counted by step; one that comes again is not."""

import lightning as L
import pytest
import torch
from prepared_kernels import (
    PreparedKernels,
    describe_steps,
    redirect_output,
)

ROWS = (1231, 1231, 1249, 1231, 1249, 1231)


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(71, 73)

    def training_step(self, batch, index):
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(torch.ones(ROWS[index], 71)).float().square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_only_new_shapes_prepare_kernels(tmp_path, capfd):
    callback = PreparedKernels(tmp_path / "output.txt")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=len(ROWS),
        callbacks=[callback],
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    says = torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION)
    with capfd.disabled(), redirect_output(callback.output), says:
        trainer.fit(Line(), torch.utils.data.DataLoader(range(len(ROWS)), batch_size=1))
    has_prepared = [bool(kernels) for kernels in callback.by_step]
    if not any(has_prepared):
        pytest.skip("products in bfloat16 are not oneDNN's on this CPU")
    assert has_prepared == [True, False, True, False, False, False]
    assert "1231" in callback.by_step[0][0]
    assert not any("1231" in kernel for kernel in callback.by_step[2])


def test_the_second_half_of_the_steps_is_described():
    output = describe_steps([["a", "b"], ["a"], [], ["c", "c"]])
    assert output.splitlines() == [
        "steps 3 to 4: 50% prepared no kernel, at most 2, 1.00 a step; before 3 in all",
        "2 x c",
    ]
