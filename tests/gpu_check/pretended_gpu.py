"""A pretended GPU: tensors that say they are on `cuda:0`, computed by the CPU.

Code runs as it would on a GPU, through the same branches, and whatever mixes devices or waits for the
device is noted with the line that does it. Kernels that only a GPU has are computed from their
definition.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import traceback
from types import SimpleNamespace
from typing import Any

from project import PROJECT

_SYNCS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "bincount",
    "equal",
    "_unique2",
    "is_nonzero",
    "unique_consecutive",
    "unique_dim",
    "repeat_interleave",
}


def pretend() -> SimpleNamespace:
    """Make the class and the mode; patches torch of this process, so use a process of its own."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    torch.cuda._lazy_init = lambda: None
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_properties = lambda *a: SimpleNamespace(name="a pretended GPU")
    torch.cuda.max_memory_allocated = lambda *a: 0
    torch.cuda.get_device_capability = lambda *a, **k: (9, 0)
    torch.cuda.is_bf16_supported = lambda *a, **k: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.Tensor.pin_memory = lambda self, *a: self
    make, linear_of = torch.tensor, torch.nn.functional.linear
    state = SimpleNamespace(mode=None)

    def is_gpu(device: Any) -> bool:  # C++ takes a pretended tensor's device for meta
        return device is not None and torch.device(device).type in ("cuda", "meta")

    def line() -> str:
        frames = traceback.extract_stack()
        for f in reversed(frames):
            if "lightning_omni/" in f.filename:
                return f"{f.filename.rpartition('lightning_omni/')[2]}:{f.lineno}  {f.line}"
        return "outside of the package"

    class Pretended(torch.Tensor):
        @staticmethod
        def __new__(cls, values: Any) -> Any:
            shell = torch.empty_strided(
                values.size(), values.stride(), dtype=values.dtype, device="meta"
            )
            made = torch.Tensor._make_subclass(
                cls, shell, False, device_for_backend_keys=torch.device("cuda", 0)
            )
            made.values_ = values
            return made

        device = property(lambda self: torch.device("cuda", 0))
        is_cuda = property(lambda self: True)

        def tolist(self) -> Any:
            state.mode.note(state.mode.syncs, "tolist")
            return self.values_.tolist()

        def numpy(self) -> Any:
            return self.values_.numpy()

        @classmethod
        def __torch_dispatch__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with state.mode:
                return func(*args, **(kwargs or {}))

    class Mode(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.syncs, self.wrong = collections.Counter(), collections.Counter()
            self.ops = 0

        def __enter__(self) -> Any:
            state.mode = self
            return super().__enter__()

        def note(self, counter: Any, what: str) -> None:
            counter[f"{what}: {line()}"] += 1

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs, name = dict(kwargs or {}), func._schema.name.partition("::")[2]
            leaves = tree_leaves((args, kwargs))
            gpu = [x for x in leaves if isinstance(x, Pretended)]
            cpu = [
                x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Pretended)
            ]
            device = kwargs.get("device")
            to_gpu = is_gpu(device) if device is not None else bool(gpu)
            if device is not None:
                kwargs["device"] = "cpu"
            self.ops += 1
            self._judge(name, args, kwargs, gpu, cpu, to_gpu)
            out = self._run(
                func,
                name,
                *tree_map(lambda x: x.values_ if isinstance(x, Pretended) else x, (args, kwargs)),
            )
            if name == "_local_scalar_dense":
                return out

            def wrap(x: Any) -> Any:
                if not isinstance(x, torch.Tensor):
                    return x
                for y in leaves:  # a result that is an argument
                    if (isinstance(y, Pretended) and y.values_ is x) or y is x:
                        return y
                return Pretended(x) if to_gpu else x

            return tree_map(wrap, out)

        def _judge(
            self, name: str, args: Any, kwargs: Any, gpu: Any, cpu: Any, to_gpu: bool
        ) -> None:
            if name in ("_to_copy", "copy_"):
                source = args[1] if name == "copy_" else args[0]
                target = isinstance(args[0], Pretended) if name == "copy_" else to_gpu
                waits = not (
                    kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
                )
                if isinstance(source, Pretended) and not target:
                    self.note(self.syncs, "device to host")
                elif not isinstance(source, Pretended) and target and waits:
                    self.note(self.syncs, "host to device, blocking")
            elif not gpu:
                return
            elif name in _SYNCS:
                if kwargs.get("output_size") is None:
                    self.note(self.syncs, name)
            elif name in ("index", "index_put", "index_put_", "_index_put_impl_"):
                index = [i for i in args[1] if isinstance(i, torch.Tensor)]
                value = args[2] if name != "index" else None
                scalar = isinstance(value, torch.Tensor) and value.ndim == 0
                if any(i.dtype in (torch.bool, torch.uint8) for i in index) and not scalar:
                    self.note(self.syncs, f"{name} by a mask")
                if any(not isinstance(i, Pretended) for i in index):
                    self.note(self.syncs, f"{name} with an index on the CPU")
                if (
                    isinstance(value, torch.Tensor)
                    and not isinstance(value, Pretended)
                    and value.ndim
                ):
                    self.note(self.wrong, f"{name}: values on the CPU")
            elif name not in ("set_", "detach") and any(x.ndim for x in cpu):
                self.note(
                    self.wrong, f"{name}: {[tuple(x.shape) for x in cpu if x.ndim]} on the CPU"
                )

        def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
            if name == "_varlen_attn":
                return varlen(*args[:7])
            if name == "_varlen_attn_backward":
                return varlen_backward(*args[:10])
            if name == "_fused_rms_norm_backward":
                g, x, _, _, w = args[:5]
                wide, gw = x.float(), g.float() * w.float()
                r = (wide.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
                gx = r * gw - wide * r.pow(3) * (gw * wide).mean(-1, keepdim=True)
                return gx.to(x.dtype), (g.float() * wide * r).flatten(0, -2).sum(0).to(w.dtype)
            return func(*args, **kwargs)

    def check_kernel(q: Any, k: Any, cq: Any, ck: Any, mq: Any, mk: Any) -> None:
        if (
            q.dtype not in (torch.float16, torch.bfloat16)
            or cq.dtype != torch.int32
            or ck.dtype != torch.int32
        ):
            raise TypeError(f"the kernel takes half precision and int32, got {q.dtype}, {cq.dtype}")
        if (
            int(cq[-1]) != len(q)
            or int(ck[-1]) != len(k)
            or int(cq.diff().max()) > mq
            or int(ck.diff().max()) > mk
        ):
            raise ValueError("cu_seqlens or the longest lengths do not fit the tokens")

    def parts(cq: Any, ck: Any) -> Any:
        for i in range(len(cq) - 1):
            yield slice(int(cq[i]), int(cq[i + 1])), slice(int(ck[i]), int(ck[i + 1]))

    def varlen(q: Any, k: Any, v: Any, cq: Any, ck: Any, mq: Any, mk: Any) -> Any:
        check_kernel(q, k, cq, ck, mq, mk)
        n, out = q.shape[1] // k.shape[1], torch.zeros_like(q)
        for a, b in parts(cq, ck):
            s = (
                torch.einsum("qhd,khd->hqk", q[a].float(), k[b].float().repeat_interleave(n, 1))
                * q.shape[-1] ** -0.5
            )
            out[a] = torch.einsum(
                "hqk,khd->qhd", s.softmax(-1), v[b].float().repeat_interleave(n, 1)
            ).to(q.dtype)
        return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)

    def varlen_backward(
        g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, cq: Any, ck: Any, mq: Any, mk: Any
    ) -> Any:
        check_kernel(q, k, cq, ck, mq, mk)
        n, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
        gq, gk, gv = (torch.zeros(x.shape) for x in (q, k, v))
        for a, b in parts(cq, ck):
            qs, gs = q[a].float(), g[a].float()
            ks, vs = (x[b].float().repeat_interleave(n, 1) for x in (k, v))
            p = (torch.einsum("qhd,khd->hqk", qs, ks) * scale).softmax(-1)
            dp = torch.einsum("qhd,khd->hqk", gs, vs)
            ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
            gq[a] = torch.einsum("hqk,khd->qhd", ds, ks)
            for to, x in (
                (gk, torch.einsum("hqk,qhd->khd", ds, qs)),
                (gv, torch.einsum("hqk,qhd->khd", p, gs)),
            ):
                to[b] = x.unflatten(1, (-1, n)).sum(2)
        return tuple(x.to(y.dtype) for x, y in ((gq, q), (gk, k), (gv, v)))

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **rest: Any) -> Any:
        made = make(data, dtype=dtype, **rest)
        if not is_gpu(device) or state.mode is None:
            return made
        state.mode.note(state.mode.syncs, "host to device, blocking (torch.tensor)")
        return Pretended(made)

    def linear(x: Any, w: Any, b: Any = None) -> Any:  # autocast of C++ looks at the device there
        if isinstance(x, Pretended) and torch.is_autocast_enabled("cuda"):
            x, w, b = (
                t if t is None else t.to(torch.get_autocast_dtype("cuda")) for t in (x, w, b)
            )
        return linear_of(x, w, b)

    def move(module: Any) -> Any:
        seen: dict[int, Any] = {}
        for m in module.modules():
            for name, p in m._parameters.items():
                if p is not None and not isinstance(p, Pretended):
                    new = lambda p=p: torch.nn.Parameter(  # noqa: E731
                        Pretended(p.detach().clone()), p.requires_grad
                    )
                    m._parameters[name] = (
                        seen.setdefault(id(p), None)
                        or seen.__setitem__(id(p), new())
                        or seen[id(p)]
                    )
            for name, b in m._buffers.items():
                if b is not None and not isinstance(b, Pretended):
                    m._buffers[name] = Pretended(b.clone())
        return module

    torch.tensor, torch.nn.functional.linear = tensor, linear
    to_of = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *a, **k: (
        move(self) if a and is_gpu(a[0]) else to_of(self, *a, **k)
    )

    @contextlib.contextmanager
    def autocast(enabled: bool) -> Any:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", enabled)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)

    def batch(b: Any) -> Any:
        host = PROJECT.host_fields()
        given = {f.name: getattr(b, f.name) for f in dataclasses.fields(b)}
        return type(b)(
            **{
                n: Pretended(x)
                if isinstance(x, torch.Tensor) and n not in host
                else batch(x)
                if dataclasses.is_dataclass(x)
                else x
                for n, x in given.items()
            }
        )

    return SimpleNamespace(Tensor=Pretended, Mode=Mode, move=move, autocast=autocast, batch=batch)
