"""The table of modalities, and a further one."""

import pytest

from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.encoding.loaded_tokenizers import load_file_tokenizers
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.errors import OmniError
from lightning_omni.generation.allowed_tokens import AllowedTokens
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.modalities import MODALITIES_BY_NAME, Modality, modality_named
from lightning_omni.tokenizers.base import FileTokenizer
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

SIZES = {"image_columns": 8, "codebooks": 2}
POSES = Modality("pose", suffix=".pose", grid=3, is_framed=True, terminator="<|endoftext|>")


class PoseTokenizer(FileTokenizer):
    name = "pose"
    num_codes = 12

    def encode(self, content):
        return list(content)

    def decode(self, codes):
        return bytes(codes)


@pytest.fixture
def poses(monkeypatch):
    monkeypatch.setitem(MODALITIES_BY_NAME, "pose", POSES)


def test_sizes_follow_from_a_row_and_the_sizes_of_the_data():
    text, speech, image = map(modality_named, ("text", "speech", "image"))
    assert [m.frame_size(SIZES) for m in (text, speech, image, POSES)] == [1, 2, 1, 3]
    assert [m.columns(SIZES) for m in (text, speech, image, POSES)] == [None, 2, 8, 3]
    assert image.fixed_length(SIZES) == 64
    assert Modality("depth", suffix=".png", grid=4, length=20).fixed_length(SIZES) == 20
    assert POSES.grid_of(4, SIZES).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1]]
    assert text.grid_of(4, SIZES) is None
    assert [len(image.grid_of(n, SIZES)) for n in (0, 1, 63, 64, 65)] == [0, 1, 63, 64, 65]
    assert [m.is_file for m in (text, speech, image, POSES)] == [False, False, False, True]


def test_a_further_modality_has_a_row_of_allowed_tokens_for_each_codebook(poses):
    text = TextTokenizer()
    vocab = Vocab(text.size, {"speech": 32, "image": 64, "pose": 12})
    allowed = AllowedTokens(vocab, text, 2, device="cpu")
    rows = allowed.allowed_set_indices("pose", ResponseSpan(4, no_end=frozenset((3,))))
    pose, pad = vocab.span("pose"), vocab.pad_token_id
    found = [allowed.allowed[row].tolist() for row in rows]
    ids = [list(range(pose.start + 4 * q, pose.start + 4 * q + 4)) for q in (0, 1, 2, 0)]
    assert found == [[pad, *ids[0]], [pad, *ids[1]], [pad, *ids[2]], ids[3]]


def test_a_tokenizer_of_files_is_exported_and_loaded_for_its_modality(tmp_path, monkeypatch):
    home = FileTokenizer.__module__  # only classes of the package are built
    monkeypatch.setattr(f"{home}.PoseTokenizer", PoseTokenizer, raising=False)
    monkeypatch.setattr(PoseTokenizer, "__module__", home)
    PoseTokenizer().save_pretrained(tmp_path)
    (one,) = load_file_tokenizers({"pose": tmp_path}).values()
    assert one.decode(one.encode(b"\1\2")) == b"\1\2"
    assert one.code_features.shape == (12, 0)
    with pytest.raises(OmniError, match="a tokenizer of pose, not melody"):
        load_file_tokenizers({"melody": tmp_path})


def test_a_missing_tokenizer_of_files_is_named(poses, tmp_path):
    from lightning_omni.pretrained import FOLDER

    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(OmniError, match=r"data\.file_tokenizers\.pose"):
        ensure_codes(
            EncodingSettings(
                tmp_path,
                FOLDER / "image_tokenizer",
                FOLDER / "speech_tokenizer",
                file_tokenizers={"pose": tmp_path / "none"},
            )
        )
