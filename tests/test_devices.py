"""`--device` of every verb reaches what computes; what is no device of this machine is refused."""

from pathlib import Path

import pytest
import torch

from lightning_omni import devices
from lightning_omni.cli import build_cli, main
from lightning_omni.devices import (
    device_facts,
    driver_version,
    resolve_device,
    training_accelerator,
)
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.generation.omni import Omni
from lightning_omni.studies.bench import workload
from lightning_omni.tokenizers.image import ImageTokenizer

IN_DATA = ["--data", "data", "--out", "out", "--seed", "1"]
LIMITS = ["--limit", "1", "--speech_limit", "1"]
EVALUATE = ["--model", "bundled", *IN_DATA, *LIMITS]
TOKENIZERS = ["--image_tokenizer", "bundled", *IN_DATA, *LIMITS, "--splits", "[test_iid]"]
EXPERIMENT = ["--name", "n", "--claim", "c", "--variants", "{a: {}, b: {}}", "--tasks", "[tqa]"]
VERBS = {
    "generate": ["--task", "tqa", "--text", "hi"],
    "evaluate": [*EVALUATE, "--tasks", "[tqa]", "--splits", "[test_iid]"],
    "evaluate-infilling": [*EVALUATE, "--split", "test_iid"],
    "evaluate-tokenizers": TOKENIZERS,
    "calibrate": [
        *["--model", "bundled", "--data", "data", "--out", "out"],
        *["--tasks", "[tqa]", "--configs", "{a: {num_steps: 1}}"],
    ],
    "experiment": [*EXPERIMENT, "--seeds", "[1]", "--recipes", "[x.yaml]"],
    "bench": ["--suite", "train", "--repeats", "1"],
}


class Reached(Exception):
    """What computes was told a device."""


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine on which torch sees two GPUs, and constructors that say which they got."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def told(*_, device, **__):
        raise Reached(str(device))

    monkeypatch.setattr(Omni, "from_pretrained", told)
    monkeypatch.setattr(ImageTokenizer, "to", lambda _, device: told(device=device))
    monkeypatch.setattr(workload.Transformer, "to", lambda _, device: told(device=device))
    bench = "lightning_omni.studies.bench.command.describe_machine"
    monkeypatch.setattr(bench, lambda **given: told(device=given["device"]))
    experiment = "lightning_omni.studies.experiments.command"
    for name in ("check_variants", "plan_stages", "check_same_data", "variant_recipes"):
        monkeypatch.setattr(f"{experiment}.{name}", lambda *_: [])
    monkeypatch.setattr(f"{experiment}.provenance", lambda device: {})
    monkeypatch.setattr(f"{experiment}.plan_trainings", lambda *_: ["a training"])
    monkeypatch.setattr(f"{experiment}.run_training", told)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("named", "used"), [("cuda:1", "cuda:1"), ("auto", "cuda:0")])
def test_the_device_reaches_what_computes(verb, named, used, two_gpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Reached, match=used):
        main([verb, *VERBS[verb], "--device", named])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("named", "said"), [("gpu1", "wanted auto, cpu"), ("cuda:9", "sees")])
def test_what_is_no_device_here_is_refused_in_a_sentence(
    verb, named, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("trainer: {}\n")
    assert main([verb, *VERBS[verb], "--device", named]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: device is '{named}'")
    assert said in printed
    assert printed.count("\n") == 1


def test_names_of_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(OmniError, match="sees 0 GPUs; give --device cpu"):
            resolve_device("cuda")
    with pytest.raises(OmniError, match="wanted auto, cpu, cuda or cuda:N"):
        resolve_device("meta")


def test_a_record_names_the_device_that_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # but unused
    record = provenance(torch.device("cpu"))
    assert record["device"] == "cpu"
    assert record["processor"]
    assert record["threads"] == torch.get_num_threads()


def test_the_record_of_a_gpu_names_it(monkeypatch):
    class Card:
        name = "A Card"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3e9)
    facts = device_facts(torch.device("cuda", 0))
    assert facts["device"] == "A Card"
    assert facts["peak_memory_gb"] == 3.0
    assert "driver" in facts


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19", "535.129.03"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95  Release\nGCC 13.3.0",
            "580.95",
        ),
        ("nothing", None),
    ],
)
def test_the_driver_is_read_from_the_system(monkeypatch, tmp_path, told, version):
    (tmp_path / "version").write_text(told)
    monkeypatch.setattr(devices, "_DRIVER_FACTS", tmp_path / "version")
    assert driver_version() == version
    monkeypatch.setattr(devices, "_DRIVER_FACTS", tmp_path / "none")
    assert driver_version() is None


@pytest.mark.parametrize(
    ("apples", "nvidias", "given", "wanted"),
    [
        (True, False, "auto", "cpu"),
        (True, True, "auto", "auto"),
        (False, False, "auto", "auto"),
        (False, True, "gpu", "gpu"),
        (True, False, "cpu", "cpu"),
    ],
)
def test_training_does_not_choose_a_gpu_without_float64(
    monkeypatch, apples, nvidias, given, wanted
):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apples)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: nvidias)
    assert training_accelerator(given) == wanted


def test_a_recipe_s_auto_is_the_cpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = Path(__file__).parents[1] / "recipes/debug/stage3.yaml"
    recipe = ["--config", str(path), "--trainer.accelerator"]
    config = build_cli([*recipe, "auto"], run=False, with_trainer=False).config
    assert config.trainer.accelerator == "cpu"
    for named in ("gpu", "mps"):
        with pytest.raises(
            OmniError, match=f"accelerator is '{named}', Apple's GPU.*accelerator cpu"
        ):
            build_cli([*recipe, named], run=False, with_trainer=False)
