"""Numbers of the published image tokenizer, on weights filled by rule."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_omni.interop import load_image_tokenizer

FOLDER = Path(__file__).parents[3] / "shared" / "parity" / "magvitv2"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reference numbers are not here")


def filled(name, shape, salt):
    seed = zlib.crc32((salt + name).encode())
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return torch.from_numpy(0.05 * x + (1 if name.endswith("weight") else 0)).float()
    return torch.from_numpy(x / np.sqrt(np.prod(shape[1:]))).float()


@torch.inference_mode()
def test_latents_codes_and_pictures_are_the_reference_s(tmp_path):
    rule = json.loads((FOLDER / "weights.json").read_text())
    state = {n: filled(n, tuple(s), rule["salt"]) for n, s in rule["shapes"].items()}
    save_file(state, tmp_path / "pytorch_model.safetensors")
    published, case = load_image_tokenizer(tmp_path), load_file(FOLDER / "cases.safetensors")
    tokenizer = published.tokenizer
    z = tokenizer.quant_conv(tokenizer.encoder(case["image"]))
    torch.testing.assert_close(z, case["z"], atol=1e-3, rtol=0)
    assert torch.equal(published.encode(case["image"]), case["codes"].long())
    rebuilt = published.decode(case["decode.codes"])
    torch.testing.assert_close(rebuilt, case["decode.image"], atol=1e-3, rtol=0)
