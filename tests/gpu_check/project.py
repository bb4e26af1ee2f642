"""The names of the package that the checks use; they follow the code here and nowhere else."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Unsupported(Exception):
    """The project has not got what a check needs."""


def need(path: str) -> Any:
    """`package.module:name`, or Unsupported."""
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(
            "lightning_omni"
        ):
            raise  # a package is not installed here: carry it
        raise Unsupported(f"{path} ({error})") from error


class Project:
    """What the checks ask of the code."""

    sizes = {"text": 256, "speech": 64, "image": 64}
    recipe_folder, debug_recipe, data = "recipes", "recipes/debug/stage3.yaml", "data/smoke"
    tokenizer_recipes = ("image_tokenizer", "speech_tokenizer")

    def attention(self, q: Any, k: Any, v: Any, lengths: list[int], key_lengths: list[int]) -> Any:
        of = need("lightning_omni.nn.segments:SegmentLayout").from_lengths
        attend = need("lightning_omni.nn.segments:segment_attention")
        return attend(q, k, v, of(lengths, device=q.device), of(key_lengths, device=q.device))

    def attention_kernel(self, device: str) -> str:
        return need("lightning_omni.nn.segments:attention_backend")(device)

    def stand_in_kernel(self, kernel: Any) -> None:
        """Let `kernel(q, k, v, cu_q, cu_k, max_q, max_k)` attend, in place of what a GPU would pick."""
        segments = need("lightning_omni.nn.segments")
        need("lightning_omni.nn.segments:_attend")

        def attend(q: Any, k: Any, v: Any, layout: Any, key_layout: Any) -> Any:
            n = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)
            ends = layout.cu_seqlens, key_layout.cu_seqlens
            return kernel(q, k, v, *ends, layout.max_length, key_layout.max_length)

        segments._attend = attend

    def backbone(self, size: int, spans: list[list[int]], shape: dict[str, Any]) -> Any:
        shape = {{"is_shifted": "right_shift_logits"}.get(k, k): v for k, v in shape.items()}
        transformer = need("lightning_omni.nn.transformer:Transformer")
        given = {"rope_theta": 1e6, "rope_sections": None, "qkv_bias": True, "qk_norm": False}
        return transformer(size, spans, **{**given, "tie_embeddings": False, **shape})

    def module(
        self,
        sizes: dict[str, int],
        shape: dict[str, Any],
        *,
        recompute: bool | str = False,
        masking: str = "counted",
        schedules: tuple[str, ...] = (),
        weights: dict[str, float] | None = None,
        features: dict[str, int] | None = None,
        process_options: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
    ) -> Any:
        """The LightningModule of the joint stages, outside of a trainer, perhaps with adapters."""
        process = need("lightning_omni.diffusion.forward_process:ForwardProcess")
        linear = need("lightning_omni.diffusion.schedule:Linear")
        given = {name: linear() for name in sizes}
        given |= dict(zip(sizes, map(self.schedule, schedules), strict=False))
        build = need("lightning_omni.modules.masked_diffusion:MaskedDiffusionModule")
        import torch

        class Outside(build):
            trainer = property(lambda self: SimpleNamespace(log_every_n_steps=10**9))
            global_step = property(lambda self: 0)

            def log(self, *args: Any, **kwargs: Any) -> None:
                """There is no trainer to log to."""

        adapters = None if lora is None else need("lightning_omni.nn.adapters:Lora")(**lora)
        made = Outside(
            sizes,
            lambda size, spans: self.backbone(size, spans, shape),
            features or {},
            process(
                given,
                masking={"counted": "fixed_count"}.get(masking, masking),
                tail_pad_ratio=0.6,
                **(process_options or {}),
            ),
            weights or dict.fromkeys(sizes, 1.0),
            torch.optim.AdamW,
            0.01,
            2,
            100,
            0.1,
            956,
            recompute_activations=recompute,
            lora=adapters,
        )
        for name, weight in made.named_parameters():
            if ".lora_B." in name:  # which begins with zeros, so that nothing depends on the other
                torch.nn.init.normal_(weight, std=0.02)
        return made

    def schedule(self, name: str) -> Any:
        """A noise schedule by the name of its class."""
        cls = need(f"lightning_omni.diffusion.schedule:{name}")
        linear = need("lightning_omni.diffusion.schedule:Linear")
        given = {"Polynomial": (0.5,), "Shifted": (linear(), 2.0)}
        return cls(*given.get(name, ()))

    def schedules(self) -> list[str]:
        """The names of all noise schedules."""
        schedule = need("lightning_omni.diffusion.schedule:NoiseSchedule")
        return [cls.__name__ for cls in schedule.__subclasses__()]

    def complementary(self, batch: Any) -> Any:
        """The same batch, with the complement of every other sample's mask."""
        import torch

        index = batch.sample_index
        return dataclasses.replace(
            batch, sample_index=torch.where(index % 2 == 0, index, -1 - index)
        )

    def with_features(self, batch: Any, width: int, rng: Any) -> Any:
        """The same batch, with features in the place of its first two tokens of each prompt."""
        import torch

        features = need("lightning_omni.types:ContinuousFeatures")
        at = (~batch.maskable & (batch.positions < 2)).nonzero().squeeze(1)
        given = features(at, torch.randn(len(at), width, generator=rng))
        return dataclasses.replace(batch, continuous=given)

    def batch(
        self, sizes: dict[str, int], lengths: list[list[int]], row_length: int, rng: Any
    ) -> Any:
        """Packed samples: half of each is its answer, of one modality or another."""
        import torch

        sequence = need("lightning_omni.types:TokenSequence")
        collate = need("lightning_omni.data.packing:collate")
        vocab = need("lightning_omni.vocab:Vocab").from_sizes(sizes, "native")
        rows, visit = [], 0
        for row in lengths:
            packed = []
            for n in row:
                m = visit % len(vocab.modalities)
                span, text = vocab.span(vocab.modalities[m]), vocab.span("text")
                asked = torch.randint(
                    text.start, text.start + text.size, (n,), generator=rng
                ).tolist()
                answer = torch.randint(
                    span.start, span.start + span.size, (n,), generator=rng
                ).tolist()
                given = n // 2
                is_answer = [i >= given for i in range(n)]
                packed.append(
                    (
                        visit,
                        sequence(
                            asked[:given] + answer[given:],
                            [(i, 0, 0) for i in range(n)],
                            is_answer,
                            [m == 0 and i >= n - 2 for i in range(n)],
                            [m if a else -1 for a in is_answer],
                            m,
                            str(visit),
                        ),
                    )
                )
                visit += 1
            rows.append(packed)
        return collate(rows, row_length=row_length, pad_token_id=vocab.pad_token_id)

    def corrupted(self, module: Any, batch: Any) -> Any:
        """(x_t, positions with a loss) of the forward process."""
        noisy = module.forward_process(batch, module.vocab, seed=module.noise_seed)
        return noisy.x_t, noisy.positions

    def flops(self, module: Any, batch: Any, masked: int) -> int:
        return need("lightning_omni.nn.flops:training_flops")(
            module.backbone, batch.lengths, masked
        )

    def blocks(self, module: Any) -> Any:
        return module.backbone.blocks

    def compile_pointwise(self, module: Any) -> None:
        if not hasattr(module.backbone, "compile_pointwise"):
            raise Unsupported("Transformer.compile_pointwise")
        module.backbone.compile_pointwise()

    def compile_blocks(self, module: Any) -> None:
        if not hasattr(module.backbone, "compile_blocks"):
            raise Unsupported("Transformer.compile_blocks")
        module.backbone.compile_blocks()

    def update(self, module: Any) -> Any:
        """A function that updates by gradients as the recipes do: clipping, Muon, AdamW, averages."""
        import torch

        muon = need("lightning_omni.optim.muon:MuonAdamW")
        groups = need("lightning_omni.optim.optimizer:decay_groups")
        optimizer = muon(groups(module.backbone, 0.01), lr=1e-3)
        average = need("lightning_omni.callbacks.ema:EMA")(decay=0.99)
        average.on_fit_start(None, module)

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update_average(module)

        return run

    def ways_to_update(self, parameters: Any, device: str) -> dict[str, Any]:
        """Functions that update weights by one kernel, and by several."""
        import torch

        ema = need("lightning_omni.callbacks.ema")
        averages = [p.detach().clone() for p in parameters]
        current = [p.detach() for p in parameters]
        ways = {
            "average, one kernel": lambda: ema.move_by_one_kernel(averages, current, 0.99),
            "average, several": lambda: ema.move_towards(averages, current, 0.99),
        }
        for name, options in {"one kernel": {"fused": True}, "several": {"foreach": True}}.items():
            ways[f"AdamW, {name}"] = torch.optim.AdamW(parameters, lr=1e-4, **options).step
        return ways

    def rotary_buffer(self, module: Any) -> Any:
        rotary = module.backbone.rotary
        return rotary.inv_freq(next(module.parameters()).device)

    def shard_one(self, module: Any, strategy: dict[str, Any], precision: str, device: str) -> Any:
        """The module as the paper's recipes shard it, by this process alone."""
        import torch

        name = strategy["class_path"].rpartition(".")[2]
        if name == "ShardedStrategy":
            hook = getattr(module, "shard", None)
            if hook is None:
                raise Unsupported(
                    "MaskedDiffusionModule.shard(mesh), by which configure_model shards"
                )
            mesh = torch.distributed.device_mesh.init_device_mesh(device, (1,))
            hook(mesh, dtype=torch.bfloat16 if "bf16" in precision else None)
            return lambda batch: module.training_step(batch, 0)
        raise Unsupported(f"strategy {name}")

    def restart_codes(self, move: Any, device: str) -> None:
        """What training the speech tokenizer does besides steps: k-means, and new places for dead codes."""
        import torch

        quantizer = need("lightning_omni.nn.codec.residual_vq:ResidualQuantizer")(8, 2, 16).train()
        move(quantizer)
        rng, z = torch.Generator().manual_seed(0), torch.randn(4, 20, 8).to(device)
        quantizer.initialise_codebooks(z.flatten(0, 1), iterations=2, rng=rng)
        quantizer(z, num_codebooks=2)
        for layer in quantizer.layers.layers:
            layer._codebook.cluster_size[:4] = 0.0
        quantizer.restart_dead_codes(z.flatten(0, 1), rng=rng)

    def omni(self, device: str) -> Any:
        return need("lightning_omni.generation.omni:Omni").bundled(device=device)

    def to_device(self, batch: Any, device: str) -> Any:
        return getattr(batch, "batch", batch).to(device)

    def host_fields(self) -> tuple[str, ...]:
        """Fields of a batch that stay on the host."""
        return ()

    def samplers(self) -> dict[str, Any]:
        """Every sampler of the package, with its defaults."""
        import inspect
        import pkgutil

        base, package = (
            need("lightning_omni.samplers.base:Sampler"),
            need("lightning_omni.samplers"),
        )
        found = {}
        for module in pkgutil.iter_modules(package.__path__):
            for name, cls in vars(need(f"lightning_omni.samplers.{module.name}")).items():
                is_sampler = inspect.isclass(cls) and issubclass(cls, base)
                if is_sampler and not inspect.isabstract(cls):
                    found[name] = cls()
        return found

    def media_shards(self, folder: Path, count: int) -> dict[str, Path]:
        """Tars of so many pictures and clips; clips come in three lengths."""
        import io
        import tarfile

        import numpy as np
        import soundfile
        from PIL import Image

        rng, found = np.random.default_rng(0), {}
        for kind, suffix in (("image", "png"), ("speech", "wav")):
            found[kind] = folder / f"{kind}-train-000000.tar"
            with tarfile.open(found[kind], "w") as tar:
                for n in range(count):
                    file = io.BytesIO()
                    if kind == "image":
                        coarse = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                        Image.fromarray(coarse).resize((256, 256)).save(file, "PNG")
                    else:
                        wave = rng.uniform(-0.5, 0.5, 16_000 * (1 + n % 3)).astype("f4")
                        soundfile.write(file, wave, 16_000, format="WAV")
                    entry = tarfile.TarInfo(f"{kind}-{n:05d}.{suffix}")
                    entry.size = file.tell()
                    file.seek(0)
                    tar.addfile(entry, file)
        return found

    def encoder(self, device: str, batch: int | None = None) -> Any:
        """Encode a shard by the bundled tokenizers on a device: a list of keys and codes."""
        import torch

        media = need("lightning_omni.data.encoding.media_codes")
        encode = need("lightning_omni.data.encoding.media_codes:encode_media_shard")
        load = need("lightning_omni.data.encoding.loaded_tokenizers:LoadedTokenizers")
        bundled = need("lightning_omni.pretrained:FOLDER")
        settings = SimpleNamespace(
            image_tokenizer=bundled / "image_tokenizer",
            speech_tokenizer=bundled / "speech_tokenizer",
            request_image_size=None,
            file_tokenizers={},
            continuous_speech=None,
        )
        tokenizers = load(settings, torch.device(device))
        media.BATCH = batch or media.BATCH

        def run(shard: Path, kind: str) -> Any:
            with torch.inference_mode():
                return list(encode(shard, kind, tokenizers, None))

        return run

    def sampler(self, name: str) -> Any:
        if name == "entropy_bounded":
            return need("lightning_omni.samplers.entropy_bounded:EntropyBounded")(bound=1.0)
        return need("lightning_omni.samplers.confidence:Confidence")()

    def fill(
        self,
        backbone: Any,
        vocab_size: int,
        *,
        prompt: int,
        answer: int,
        batch: int,
        steps: int,
        refresh_every: int,
        sampler: str,
        bf16: bool,
        device: str,
    ) -> tuple[Any, int]:
        """Fill answers behind random prompts; the filled ids and the forward passes it took."""
        import torch

        layouts, packs = (
            need("lightning_omni.nn.segments:SegmentLayout"),
            need("lightning_omni.generation.prompts:PackedPrompts"),
        )
        canvases, run = (
            need("lightning_omni.samplers.canvas:Canvas"),
            need("lightning_omni.samplers.loop:sample"),
        )
        make_denoiser = need("lightning_omni.generation.denoiser:conditional_denoiser")
        mask = vocab_size - 1
        given = torch.randint(0, mask, (batch, prompt), generator=torch.Generator().manual_seed(0))
        ids = torch.cat((given, torch.full((batch, answer), mask)), 1).flatten().to(device)
        index = torch.arange(prompt + answer).repeat(batch)
        lengths = [prompt + answer] * batch
        masked = (ids == mask).nonzero().squeeze(1)
        packed = packs(
            ids,
            torch.stack((index, index * 0, index * 0), 1).to(device),
            layouts.from_lengths(lengths, device=device),
            masked,
        )
        where = torch.where(ids == mask, 0, -1)
        span = min(8192, mask // 2)
        canvas = canvases(
            ids=ids,
            sample=torch.arange(batch, device=device).repeat_interleave(prompt + answer),
            block=where,
            allowed_set=where,
            allowed=(torch.arange(mask - span, mask, device=device),),
            num_steps=torch.full((batch, 1), steps, device=device),
            mask_token_id=mask,
        )
        plain = make_denoiser(
            backbone,
            packed,
            mask_token_id=mask,
            cache_interval=refresh_every,
            dtype=torch.bfloat16 if bf16 else torch.float32,
        )
        forwards = [0]

        def denoise(*given: Any) -> Any:
            forwards[0] += 1
            return plain(*given)

        with torch.inference_mode():
            out = run(
                denoise,
                canvas,
                self.sampler(sampler),
                seeds=torch.zeros(batch, dtype=torch.long, device=device),
            )
        return out[masked], forwards[0]

    def recipe(
        self, root: Path, accelerator: str, steps: int, every: int, folder: Path
    ) -> dict[str, Any]:
        """The debug recipe of the joint stage with fewer callbacks; also its model's file, written in."""

        path = root / self.debug_recipe
        if not path.is_file():
            raise Unsupported(f"{self.debug_recipe} in {root}")
        recipe: dict[str, Any] = need("lightning_omni.recipe:read_recipe")(path)
        model = recipe["model"]["init_args"]
        model["total_steps"] = steps
        trainer = recipe["trainer"]
        trainer |= {
            "accelerator": accelerator,
            "max_steps": steps,
            "val_check_interval": steps,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {
                    "save_dir": str(folder),
                    "name": "",
                    "version": "log",
                    "flush_logs_every_n_steps": 1,
                },
            },
        }
        kept = ("EMAWeightAveraging", "EMA")
        trainer["callbacks"] = [
            c for c in trainer.get("callbacks", []) if c["class_path"].rpartition(".")[2] in kept
        ]
        trainer["callbacks"].append(
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {
                    "dirpath": str(folder / "checkpoints"),
                    "save_last": True,
                    "every_n_train_steps": every,
                    "save_top_k": -1,
                },
            }
        )
        return recipe

    def read(self, path: Path) -> dict[str, Any]:
        """A recipe with its bases merged in."""
        found: dict[str, Any] = need("lightning_omni.recipe:read_recipe")(path)
        return found

    def command(self) -> list[str]:
        return [sys.executable, "-m", "lightning_omni"]

    def datamodule(self, root: Path, rows: int, row_length: int, workers: int | None) -> Any:
        """The debug recipe's data with other rows, and with workers if the project has them."""
        cli = need("lightning_omni.cli:build_cli")
        import yaml

        folder = Path(tempfile.mkdtemp(prefix="gpu_check-"))
        (folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe(root, "cpu", 4, 4, folder)))
        args = [
            "--config",
            str(folder / "recipe.yaml"),
            "--data.rows",
            str(rows),
            "--data.row_length",
            str(row_length),
        ]
        if workers is not None:
            args += ["--data.num_workers", str(workers)]
        try:
            data = cli(args, run=False).datamodule
        except Exception as error:
            if workers is not None:
                raise Unsupported(f"data.num_workers ({str(error)[:80]})") from error
            raise
        data.prepare_data()
        data.setup("fit")
        return data


PROJECT = Project()
SMALL = {
    "dim": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_dim": 128,
    "qk_norm": True,
}
BASE = {"dim": 768, "num_layers": 12, "num_heads": 12, "num_kv_heads": 4, "ffn_dim": 2048}
SEVEN = {"dim": 3584, "num_heads": 28, "num_kv_heads": 4, "ffn_dim": 18944, "is_shifted": True}
