"""Arrays of media are found on disk by the digests of their names."""

import numpy as np
import pytest

from lightning_omni.data.encoding import code_index
from lightning_omni.data.encoding.code_index import CodeIndex, write_code_index
from lightning_omni.data.encoding.code_store import medium_digest, write_code_store
from lightning_omni.errors import OmniError


def stores_of(folder, *media, dtype="<i4"):
    """One store for each dictionary of arrays by name."""
    paths = []
    for n, arrays in enumerate(media):
        paths.append(folder / f"{n}.codes")
        with paths[-1].open("wb") as file:
            rows = [
                (medium_digest("m", name), np.array(a, dtype=dtype)) for name, a in arrays.items()
            ]
            assert write_code_store(file, rows) == len(arrays)
    return paths


def index_of(folder, stores):
    write_code_index(folder / "index.sqlite", stores)
    return CodeIndex(folder / "index.sqlite", stores)


def test_arrays_come_back_from_their_stores(tmp_path):
    stores = stores_of(tmp_path, {"a": [1, 2, 3], "empty": []}, {}, {"b": [7]})
    index = index_of(tmp_path, stores)
    found = {n: index.find(medium_digest("m", n), "<i4").tolist() for n in ("b", "a", "empty")}
    assert found == {"a": [1, 2, 3], "empty": [], "b": [7]}
    assert index.find(medium_digest("m", "c"), "<i4") is None
    assert index.find(medium_digest("other", "a"), "<i4") is None
    index.close()


def test_features_keep_their_width(tmp_path):
    frames = np.arange(6).reshape(3, 2)
    index = index_of(tmp_path, stores_of(tmp_path, {"a": frames}, dtype="<f2"))
    np.testing.assert_array_equal(index.find(medium_digest("m", "a"), "<f2"), frames)
    index.close()


def test_of_equal_names_the_last_counts(tmp_path):
    index = index_of(tmp_path, stores_of(tmp_path, {"a": [1]}, {"a": [2]}))
    assert index.find(medium_digest("m", "a"), "<i4").tolist() == [2]
    index.close()


def test_few_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(code_index, "_OPEN_STORES", 2)
    index = index_of(tmp_path, stores_of(tmp_path, *({str(n): [n]} for n in range(5))))
    for n in (0, 1, 2, 3, 4, 0, 4):
        assert index.find(medium_digest("m", str(n)), "<i4").tolist() == [n]
        assert len(index.files._open) <= 2
    index.close()


def test_a_damaged_store_is_refused(tmp_path):
    (store,) = stores_of(tmp_path, {"a": [1]})
    store.write_bytes(store.read_bytes()[:-1])
    with pytest.raises(OmniError, match="is damaged; delete it and encode again"):
        write_code_index(tmp_path / "index.sqlite", [store])
    store.write_bytes(b"")
    with pytest.raises(OmniError, match="is damaged"):
        write_code_index(tmp_path / "other.sqlite", [store])
