"""What a recorded history says of a response."""


def replay_history(history, ids, *, mask_token_id, num_steps=None):
    """The ids of a response after its first steps, or after all; `ids` are those before them."""
    out = list(ids)
    for change in history:
        if num_steps is None or change["step"] <= num_steps:
            token = change["token"]
            out[change["position"]] = mask_token_id if token is None else token
    return out
