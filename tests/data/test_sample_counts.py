"""Every sample that was drawn is used: counted over lanes, processes, workers and resumed runs."""

import json
import logging
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from tar_files import write_tar

from lightning_omni.data.lanes import LaneLoader, LaneStream
from lightning_omni.data.mixture import Mixture, PackedLanes
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.data.sample_counts import TaskCounter, describe_epochs
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

LANES = 4
SIZES = {"tqa": (23, 9), "t2i": (14,)}


def sample(task, number):
    question = Turn("user", (Part("text", text=f"what is {number}"),))
    codes = tuple((number + i) % 64 for i in range(16))
    answers = {"tqa": Part("text", text=f"it is {number}"), "t2i": Part("image", codes=codes)}
    return Sample(f"{task}{number}", task, (question, Turn("assistant", (answers[task],))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, counts = tmp_path_factory.mktemp("codes"), {}
    for task, sizes in SIZES.items():
        for shard, size in enumerate(sizes):
            samples = [sample(task, 100 * shard + i) for i in range(size)]
            files = [(f"{s.key}.json", json.dumps(s.to_json()).encode()) for s in samples]
            path = write_tar(folder / f"{task}-train-{shard:06d}.tar", files)
            write_index(path)
            counts[path.name] = size
    (folder / "manifest.json").write_text(json.dumps({"samples": counts}))
    return folder


class CountedData(ResumableData):
    """A stream of two tasks, as one of several processes sees it."""

    def __init__(self, mixture, rank=0, world_size=1):
        super().__init__(mixture.lanes)
        self.counter = TaskCounter(mixture)
        self.place = (rank, world_size)

    rank = property(lambda self: self.place[0])
    world_size = property(lambda self: self.place[1])

    def samples_in_batch(self, batch):
        return Counter(TASK_NAMES[t] for t in batch.host_tasks if t >= 0)

    def samples_up_to(self, lane, position):
        return self.counter.count_up_to(lane, position)

    def samples_per_epoch(self):
        return self.counter.count_per_epoch()


def open_lanes(mixture):
    text = TextTokenizer()
    vocab = Vocab.from_sizes({"text": text.size, "speech": 32, "image": 64}, "native")
    template = Template(vocab, text, image_columns=4, codebooks=1, max_tail_pads={"text": 4})
    return PackedLanes(mixture, template, rows=2, row_length=100)


def loader(data, mixture, *, workers=0):
    stream = LaneStream(
        open_lanes(mixture),
        lanes=LANES,
        rank=data.rank,
        world_size=data.world_size,
        start=data.start,
    )
    return LaneLoader(stream, num_workers=workers)


def use(data, mixture, steps, *, workers=0):
    """Use so many batches, as training does; return what they held."""
    held = Counter()
    batches = iter(loader(data, mixture, workers=workers))
    for _ in range(steps):
        batch = data.on_before_batch_transfer(next(batches), 0)
        held.update(batch.keys)
    held.pop("", None)
    return held


@pytest.mark.parametrize("complementary", [False, True])
def test_all_samples_of_an_epoch_are_used_on_any_layout_and_after_resuming(
    folder, complementary, caplog
):
    mixture = Mixture(folder, {"tqa": 2.0, "t2i": 1.0}, 1, LANES, complementary=complementary)
    caplog.set_level(logging.INFO)
    held, state = Counter(), None
    for workers, steps in ((0, 5), (2, 9), (1, 20)):
        data = CountedData(mixture)
        if state is not None:
            data.load_state_dict(json.loads(json.dumps(state)))
        held += use(data, mixture, steps, workers=workers)
        state = data.state_dict()
    total = Counter()
    for counts in state["used_samples"].values():
        total.update(counts)
    assert total == Counter(key[:3] for key in held.elements())
    assert total["tqa"] > 3 * sum(SIZES["tqa"])
    assert {key[:3] for key, n in held.items() if n} == set(SIZES)
    assert len(held) == sum(map(sum, SIZES.values()))
    assert "epochs that are over: tqa 1 (" in caplog.text


def test_processes_count_their_own_lanes(folder):
    mixture = Mixture(folder, {"tqa": 2.0, "t2i": 1.0}, 1, LANES)
    ranks = [CountedData(mixture, rank, 2) for rank in range(2)]
    for data in ranks:
        use(data, mixture, 6)
    assert [sorted(data.used_samples.by_lane) for data in ranks] == [[0, 2], [1, 3]]


@pytest.mark.parametrize("fault", ["lost", "repeated", "shortened"])
def test_a_sample_that_is_lost_or_repeated_ends_the_run(folder, fault):
    mixture = Mixture(folder, {"tqa": 2.0, "t2i": 1.0}, 1, LANES)
    data = CountedData(mixture)
    batches = [one for one, _ in zip(loader(data, mixture), range(12), strict=False)]
    if fault == "lost":
        del batches[6]
    elif fault == "repeated":
        batches.insert(6, batches[6])
    else:
        host_tasks = (-1, *batches[6].batch.host_tasks[1:])
        batches[6] = replace(batches[6], batch=replace(batches[6].batch, host_tasks=host_tasks))
    with pytest.raises(OmniError, match="samples were lost or repeated"):
        list(map(partial(data.on_before_batch_transfer, dataloader_idx=0), batches))


def test_a_checkpoint_that_did_not_count_is_taken_on(folder):
    mixture = Mixture(folder, {"tqa": 2.0, "t2i": 1.0}, 1, LANES)
    data = CountedData(mixture)
    use(data, mixture, 7)
    state = data.state_dict()
    wanted = state.pop("used_samples")
    later = CountedData(mixture)
    later.load_state_dict(state)
    assert later.state_dict()["used_samples"] == wanted
    use(later, mixture, 7)


def test_epochs_are_described_when_their_number_has_doubled():
    known = {}
    counts = range(0, 100, 5)
    described = [describe_epochs({"a": n}, {"a": 10}, known=known) for n in counts]
    found = {n: text for n, text in zip(counts, described, strict=True) if text}
    assert list(found) == [10, 20, 40, 80]
    assert found[80] == "epochs that are over: a 8 (80 samples)"


def test_kinds_without_samples_have_no_epochs():
    assert describe_epochs({"a": 39}, {"a": 10, "b": 0}, known={"a": 3}) is None
