"""What a build knows of the media it gathered."""

from data_prep.collection import Collection
from data_prep.media_file import MediaFile


def medium(key, modality, **info):
    return MediaFile(key, modality, "bin", info, bytes)


def test_media_are_counted_by_licence_within_their_split():
    collection = Collection()
    collection.add_media("train", medium("a", "image", licence="MIT"))
    collection.add_media("train", medium("b", "speech", licence="MIT"), medium("c", "image"))
    collection.add_media("test_iid", medium("d", "image", licence="CC-BY-SA-4.0"))
    assert collection.count_licences("train") == {"MIT": 2, "not stated": 1}
