"""Checkpoints written before the length head was removed can be resumed."""

import copy

import torch
from test_masked_diffusion import module

from lightning_omni.modules.initial_weights import drop_length_head
from lightning_omni.optim.optimizer import decay_groups


def checkpoint_of(model, head):
    """A checkpoint as the trainer writes it, of a module with a head beside its backbone."""
    groups = decay_groups(model.backbone, 0.1) + ([] if head is None else decay_groups(head, 0.1))
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    state = dict(model.state_dict())
    if head is not None:
        state |= {f"length_head.{name}": value for name, value in head.state_dict().items()}
    return copy.deepcopy(
        {
            "state_dict": state,
            "current_model_state": dict(state),
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [schedule.state_dict()],
        }
    )


def test_weights_and_states_of_a_length_head_are_dropped():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 3)
    model = module(weight_decay=0.1)
    old, wanted = checkpoint_of(model, head), checkpoint_of(module(weight_decay=0.1), None)
    model.on_load_checkpoint(old)
    for name in ("state_dict", "current_model_state"):
        assert old[name].keys() == wanted[name].keys()
    model.load_state_dict(old["state_dict"])
    made = model.configure_optimizers()
    made["optimizer"].load_state_dict(old["optimizer_states"][0])
    made["lr_scheduler"]["scheduler"].load_state_dict(old["lr_schedulers"][0])
    own, other = (c["optimizer_states"][0]["state"] for c in (old, wanted))
    assert own.keys() == other.keys()
    assert all(torch.equal(own[k]["exp_avg"], other[k]["exp_avg"]) for k in own)


def test_a_checkpoint_without_one_is_left_as_it_is():
    plain = checkpoint_of(module(weight_decay=0.1), None)
    before = copy.deepcopy(plain["lr_schedulers"]), plain["state_dict"].keys()
    drop_length_head(plain, 1)
    assert (plain["lr_schedulers"], plain["state_dict"].keys()) == before
