"""The packed batches of a mixture of tasks: shares, layouts, positions, complements."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from tar_files import write_tar

from lightning_omni.data.lanes import LaneLoader, LaneStream, StreamPosition
from lightning_omni.data.mixture import Mixture, MixtureLane, PackedLanes, choose_next_task
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

LANES = 4
TASKS = {"tqa": 2.0, "t2i": 1.0}


def sample(task, number):
    question = Turn("user", (Part("text", text=f"what is {number}"),))
    codes = tuple((number + i) % 64 for i in range(16))
    answers = {"tqa": Part("text", text=f"it is {number}"), "t2i": Part("image", codes=codes)}
    return Sample(f"{task}{number}", task, (question, Turn("assistant", (answers[task],))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, counts = tmp_path_factory.mktemp("codes"), {}
    for task, sizes in (("tqa", (23, 9)), ("t2i", (14,))):
        for shard, size in enumerate(sizes):
            samples = [sample(task, 100 * shard + i) for i in range(size)]
            files = [(f"{s.key}.json", json.dumps(s.to_json()).encode()) for s in samples]
            path = write_tar(folder / f"{task}-train-{shard:06d}.tar", files)
            write_index(path)
            counts[path.name] = size
    (folder / "manifest.json").write_text(json.dumps({"samples": counts}))
    return folder


@pytest.fixture(scope="module")
def template():
    text = TextTokenizer()
    vocab = Vocab.from_sizes({"text": text.size, "speech": 32, "image": 64}, "native")
    pads = {"text": 4}
    return Template(vocab, text, image_columns=4, codebooks=1, max_tail_pads=pads)


def lanes(folder, template, *, rows=2, **changes):
    mixture = Mixture(folder, TASKS, 1, LANES, **changes)
    return PackedLanes(mixture, template, rows=rows, row_length=100)


def take(open_lane, layout, steps, start=None):
    """Use batches with a number of processes and workers; return them and where the run stopped."""
    processes, workers = layout
    start = start or StreamPosition()
    position = StreamPosition(start.micro_batches, dict(start.lanes))
    loaders = [
        iter(
            LaneLoader(
                LaneStream(open_lane, lanes=LANES, rank=r, world_size=processes, start=start),
                num_workers=workers,
            )
        )
        for r in range(processes)
    ]
    found = []
    for _ in range(steps):
        for loader in loaders:
            one = next(loader)
            position.lanes[one.lane] = json.loads(json.dumps(one.position))
            position.micro_batches += 1
            found.append(one.batch)
    return found, position


def assert_same(batches, others):
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert one.lengths == other.lengths
        for name in ("ids", "position_ids", "maskable", "is_tail_pad", "sample_index", "tasks"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("layout", [(1, 2), (2, 0), (4, 0), (2, 2)])
def test_rows_are_the_same_for_any_number_of_processes_and_workers(folder, template, layout):
    whole, _ = take(lanes(folder, template), (1, 0), 16)
    found, _ = take(lanes(folder, template), layout, 16 // layout[0])
    assert_same(found, whole)


@pytest.mark.parametrize("complementary", [False, True])
def test_a_run_resumed_twice_on_other_layouts_repeats_and_loses_nothing(
    folder, template, complementary
):
    opened = lanes(folder, template, complementary=complementary, condition_dropout=0.3)
    whole, _ = take(opened, (1, 0), 36)
    found, position = [], None
    for layout, steps in (((2, 0), 5), ((4, 0), 3), ((1, 2), 7), ((1, 0), 7)):
        again = lanes(folder, template, complementary=complementary, condition_dropout=0.3)
        batches, position = take(again, layout, steps, position)
        found += batches
    assert_same(found, whole)
    shown = torch.cat([b.sample_index[b.tasks >= 0] for b in found]).tolist()
    assert len(set(shown)) == len(shown)


def test_rows_of_another_size_go_on_with_the_next_sample(folder, template):
    first, position = take(lanes(folder, template), (1, 0), 9)
    second, _ = take(lanes(folder, template, rows=5), (1, 0), 9, position)
    shown = torch.cat([b.sample_index[b.tasks >= 0] for b in (*first, *second)]).tolist()
    assert len(set(shown)) == len(shown)
    stride = MixtureLane(Mixture(folder, TASKS, 1, LANES), template, {}, 0).stride
    by_lane = {lane: sorted(i // stride for i in shown if i % stride == lane) for lane in range(4)}
    for drawn in by_lane.values():
        gaps = set(range(drawn[-1] + 1)) - set(drawn)
        assert len(gaps) <= 17  # those that wait for the next batch


def test_the_tasks_have_their_shares_over_lanes_and_in_each(folder, template):
    mixture = Mixture(folder, TASKS, 1, LANES)
    readers = mixture.make_readers()
    drawn = [[MixtureLane(mixture, template, readers, n)] for n in range(LANES)]
    tasks = [[lane.draw_sample().task for _ in range(60)] for (lane,) in drawn]
    for own in tasks:
        assert abs(Counter(own)["tqa"] - 40) <= 1
    for turn in zip(*tasks, strict=True):
        assert 2 <= Counter(turn)["tqa"] <= 3


def test_a_task_is_served_within_one_of_its_share():
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    served = dict.fromkeys(weights, 0)
    for n in range(1, 200):
        choose_next_task(weights, served)
        assert all(abs(served[k] - n * w) < 1 for k, w in weights.items())


def test_a_task_without_shards_is_refused(folder, template):
    mixture = Mixture(folder, {"vqa": 1.0}, 1, LANES)
    with pytest.raises(OmniError, match="no shards of 'vqa'"):
        next(PackedLanes(mixture, template, rows=1, row_length=100)(0, None))


def test_lanes_have_sample_indices_of_their_own(folder, template):
    shown = Counter()
    opened = lanes(folder, template)
    for lane in range(LANES):
        for batch, _ in islice(opened(lane, None), 10):
            shown.update(batch.sample_index[batch.tasks >= 0].tolist())
    assert max(shown.values()) == 1
