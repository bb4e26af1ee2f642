"""Datasheet peaks stand for whole GPUs whose name says which board they are."""

import pytest

from lightning_omni.nn.flops import peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H20", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GH200 480GB", None),
    ],
)
def test_a_peak_is_that_of_the_whole_board(name, peak):
    assert peak_flops(name) == peak
