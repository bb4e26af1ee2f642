"""Small random Qwen2 and Qwen3 checkpoints of `transformers`, with a tokenizer of their layout."""

import json

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lightning_omni.vocab import RELEASED

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = 300
QWEN25_TOKENS = RELEASED.names[:22]
QWEN3_TOKENS = (*QWEN25_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>")
SENTENCES = [
    "It's 10 o'clock; we've 3 dogs, and I'll draw them.",
    "  two spaces\n\nand lines\t \r\n",
    "Grüße, 你好 🐳!",
    "what color is the whale",
]


def write_tokenizer(folder, *, names=QWEN3_TOKENS, size=TEXT):
    """Train byte-pair merges as Qwen lays them out: bytes, merges, special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    assert tokenizer.get_vocab_size() == size
    tokenizer.add_special_tokens(list(names))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_qwen(folder, kind="qwen3", *, rows=336, tied=True, heads=4, kv_heads=2, seed=0, **more):
    """Save a random checkpoint with a tokenizer; return the network of `transformers`."""
    import transformers

    torch.manual_seed(seed)
    settings = {
        "vocab_size": rows,
        "hidden_size": 16 * heads,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    }
    if kind == "qwen3":
        config = transformers.Qwen3Config(**{**settings, "head_dim": 24, **more})
        model = transformers.Qwen3ForCausalLM(config)
    else:
        config = transformers.Qwen2Config(**{**settings, **more})
        model = transformers.Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    model.eval().save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder, names=QWEN3_TOKENS if kind == "qwen3" else QWEN25_TOKENS)
    return model


def change_config(folder, **changes):
    """Change settings of a checkpoint; None leaves one out."""
    path = folder / "config.json"
    plain = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in plain.items() if v is not None}))
