"""The joint model's data module at a URL: batches, validation, features, counts."""

from itertools import islice

import pytest
import torch
from servers import DROP, serving
from test_commands import picture, write_corpus

from data_prep.prepare_corpus import prepare_corpus
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.pretrained import resolve_pretrained


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    source = write_corpus(folder / "corpus", "png", picture, 0, 16)
    for split in ("train", "val"):
        prepare_corpus("img2dataset", [source], folder / "data", split=split, facts={})
    return folder / "data"


@pytest.fixture(scope="module")
def codes(data):
    tokenizers = {n: resolve_pretrained("bundled", n) for n in NAMES}
    return ensure_codes(EncodingSettings(data, **tokenizers), torch.device("cpu"))


NAMES = ("image_tokenizer", "speech_tokenizer")


def joint_data(folder, codes):
    spans = read_manifest(codes)["spans"]
    return OmniData(
        data=str(folder),
        **dict.fromkeys(NAMES, "bundled"),
        vocab={"text": 1024, **spans},
        tasks={"t2i": 1, "caption": 2},
        rows=2,
        row_length=1024,
        max_tail_pads={"text": 4, "speech": 4},
        condition_dropout=0.1,
        val_samples=2,
        seed=5,
        lanes=2,
    )


def set_up(folder, codes):
    module = joint_data(folder, codes)
    module.prepare_data()
    module.setup("fit")
    return module


def test_batches_and_features_are_those_of_the_local_folder(data, codes, caplog):
    caplog.set_level("INFO")
    local = set_up(data, codes)
    with serving(data, faults={DROP: 0.1}) as server:
        remote = set_up(server.url, codes)
        for one, two in zip(
            islice(remote.train_dataloader(), 6), islice(local.train_dataloader(), 6), strict=True
        ):
            assert torch.equal(one.batch.ids, two.batch.ids)
            assert one.position == two.position
            remote.on_before_batch_transfer(one, 0)
        for one, two in zip(remote.val_dataloader(), local.val_dataloader(), strict=True):
            assert torch.equal(one.ids, two.ids)
        features = local.code_features()
        assert all(torch.equal(v, features[k]) for k, v in remote.code_features().items())
        assert remote.stream_identity() == local.stream_identity()
        remote.teardown("fit")
    assert "read from URLs:" in caplog.text
    assert "retries" in caplog.text


def test_a_recipe_with_credentials_or_data_without_codes_are_refused(data, codes, tmp_path):
    with pytest.raises(OmniError, match=r"data\.data 'http://host/x' comes with"):
        joint_data("http://host/x?token=secret", codes)
    for path in data.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with serving(tmp_path) as server:
        module = joint_data(server.url, codes)
        with pytest.raises(OmniError, match=r"are not encoded by these tokenizers"):
            module.prepare_data()
