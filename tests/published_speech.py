"""Small copies of published speech networks: their files, names and settings, random weights.

Names and shapes are written down here, apart from the networks that are tested.
"""

import json

import torch
import yaml
from safetensors.torch import save_file

QUERIES = 16
SENSE_VOICE = {
    "output_size": 16,
    "attention_heads": 4,
    "linear_units": 24,
    "num_blocks": 3,
    "tp_blocks": 2,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}
FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
}


def random_weights(shapes, seed=0):
    """Weights of these shapes; norms near one, all others small."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) * 0.2
        + (1.0 if len(shape) == 1 and name.endswith(("weight", "alpha")) else 0.0)
        for name, shape in shapes.items()
    }


def linear(name, size, out, bias=True):
    return {f"{name}.weight": (out, size), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, size):
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def conv(name, size, out, kernel):
    return {f"{name}.weight": (out, size, kernel), f"{name}.bias": (out,)}


def sense_voice_shapes(conf=SENSE_VOICE, vocabulary=30):
    dim, hidden = conf["output_size"], conf["linear_units"]
    shapes = {"embed.weight": (QUERIES, 560), **linear("ctc.ctc_lo", dim, vocabulary)}
    layers = {"encoders0.0": 560}
    layers |= {f"encoders.{n}": dim for n in range(conf["num_blocks"] - 1)}
    layers |= {f"tp_encoders.{n}": dim for n in range(conf["tp_blocks"])}
    for name, size in layers.items():
        layer = f"encoder.{name}"
        shapes |= norm(f"{layer}.norm1", size) | norm(f"{layer}.norm2", dim)
        shapes |= linear(f"{layer}.self_attn.linear_q_k_v", size, 3 * dim)
        shapes |= linear(f"{layer}.self_attn.linear_out", dim, dim)
        shapes[f"{layer}.self_attn.fsmn_block.weight"] = (dim, 1, conf["kernel_size"])
        shapes |= linear(f"{layer}.feed_forward.w_1", dim, hidden)
        shapes |= linear(f"{layer}.feed_forward.w_2", hidden, dim)
    return shapes | norm("encoder.after_norm", dim) | norm("encoder.tp_norm", dim)


def write_sense_voice(folder, conf=SENSE_VOICE):
    """A folder as SenseVoiceSmall is published in, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(sense_voice_shapes(conf))
    torch.save(weights, folder / "model.pt")
    settings = {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": conf,
        "model": "SenseVoiceSmall",
        "frontend": "WavFrontend",
        "frontend_conf": FRONTEND,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    numbers = {"AddShift": " ".join(["-8"] * 560), "Rescale": " ".join(["0.2"] * 560)}
    (folder / "am.mvn").write_text(
        "<Nnet>\n"
        + "".join(f"<{n}> 560 560\n<LearnRateCoef> 0 [ {v} ]\n" for n, v in numbers.items())
        + "</Nnet>\n"
    )
    return weights


TOKENIZER = {
    "activation_function": "gelu",
    "architectures": ["WhisperVQEncoder"],
    "d_model": 16,
    "encoder_attention_heads": 4,
    "encoder_causal_attention": False,
    "encoder_causal_convolution": True,
    "encoder_ffn_dim": 24,
    "encoder_layers": 4,
    "max_source_positions": 1500,
    "model_type": "whisper",
    "num_mel_bins": 128,
    "pooling_kernel_size": 4,
    "pooling_position": 2,
    "pooling_type": "avg",
    "quantize_causal_block_size": 200,
    "quantize_causal_encoder": False,
    "quantize_ema_decay": 0.99,
    "quantize_encoder_only": True,
    "quantize_position": 2,
    "quantize_vocab_size": 48,
    "scale_embedding": False,
}
FEATURES = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "sampling_rate": 16000,
}


def tokenizer_shapes(conf=TOKENIZER):
    dim, codes = conf["d_model"], conf["quantize_vocab_size"]
    shapes = conv("conv1", conf["num_mel_bins"], dim, 3) | conv("conv2", dim, dim, 3)
    frames = conf["max_source_positions"]
    shapes["embed_positions.weight"] = (frames, dim)
    shapes["embed_positions2.weight"] = (-(-frames // conf["pooling_kernel_size"]), dim)
    shapes |= dict.fromkeys(("codebook.weight", "ema_weight"), (codes, dim))
    shapes["ema_count"] = (codes,)
    for n in range(conf["quantize_position"]):
        layer = f"layers.{n}"
        for part in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}.self_attn.{part}_proj", dim, dim, bias=part != "k")
        shapes |= norm(f"{layer}.self_attn_layer_norm", dim)
        shapes |= norm(f"{layer}.final_layer_norm", dim)
        shapes |= linear(f"{layer}.fc1", dim, conf["encoder_ffn_dim"])
        shapes |= linear(f"{layer}.fc2", conf["encoder_ffn_dim"], dim)
    return shapes


def write_tokenizer(folder, conf=TOKENIZER):
    """A folder as GLM-4-Voice's tokenizer is published in, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(tokenizer_shapes(conf))
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(conf))
    (folder / "preprocessor_config.json").write_text(json.dumps(FEATURES))
    return weights


DECODER = """\
__set_seed1: !apply:random.seed [1986]
sample_rate: 22050
spk_embed_dim: 12
flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: 16
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    output_type: 'mel'
    vocab_size: 48
    input_frame_rate: 12.5
    only_mask_loss: True
    encoder: !new:cosyvoice.transformer.encoder.BlockConformerEncoder
        output_size: 24
        attention_heads: 4
        linear_units: 32
        num_blocks: 2
        dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'block_rel_selfattn'
        input_size: 16
        use_cnn_module: False
        macaron_style: False
        block_size: 3
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        in_channels: 240
        n_spks: 1
        spk_emb_dim: 80
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-06
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: 0.7
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [16, 24]
            dropout: 0
            attention_head_dim: 8
            n_blocks: 1
            num_mid_blocks: 2
            num_heads: 4
            act_fn: 'gelu'
hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: 16
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: 8
"""


def unet_level(name, size, out, time, inner):
    shapes = linear(f"{name}.0.mlp.1", time, out) | conv(f"{name}.0.res_conv", size, out, 1)
    for block, channels in (("block1", size), ("block2", out)):
        shapes |= conv(f"{name}.0.{block}.block.0", channels, out, 3)
        shapes |= norm(f"{name}.0.{block}.block.1", out)
    layer = f"{name}.1.0"
    for part in ("to_q", "to_k", "to_v"):
        shapes |= linear(f"{layer}.attn1.{part}", out, inner, bias=False)
    shapes |= linear(f"{layer}.attn1.to_out.0", inner, out)
    shapes |= norm(f"{layer}.norm1", out) | norm(f"{layer}.norm3", out)
    return (
        shapes
        | linear(f"{layer}.ff.net.0.proj", out, 4 * out)
        | linear(f"{layer}.ff.net.2", 4 * out, out)
    )


def flow_shapes(codes=48):
    """Shapes of the flow that `DECODER` describes."""
    dim, hidden, mels, inner = 24, 32, 80, 32
    shapes = {"input_embedding.weight": (codes, 16)} | linear("spk_embed_affine_layer", 12, mels)
    shapes |= linear("encoder.embed.out.0", 16, dim) | norm("encoder.embed.out.1", dim)
    shapes |= norm("encoder.after_norm", dim) | linear("encoder_proj", dim, mels)
    for n in range(2):
        layer = f"encoder.encoders.{n}"
        for part in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}.self_attn.linear_{part}", dim, dim)
        shapes |= linear(f"{layer}.self_attn.linear_pos", dim, dim, bias=False)
        shapes |= {f"{layer}.self_attn.pos_bias_{x}": (4, 6) for x in "uv"}
        shapes |= norm(f"{layer}.norm_ff", dim) | norm(f"{layer}.norm_mha", dim)
        shapes |= linear(f"{layer}.feed_forward.w_1", dim, hidden)
        shapes |= linear(f"{layer}.feed_forward.w_2", hidden, dim)
    for n in range(0, 12, 3):
        shapes |= conv(f"length_regulator.model.{n}", mels, mels, 3)
        shapes |= norm(f"length_regulator.model.{n + 1}", mels)
    shapes |= conv("length_regulator.model.12", mels, mels, 1)
    unet, time = "decoder.estimator", 64
    shapes |= linear(f"{unet}.time_mlp.linear_1", 320, time)
    shapes |= linear(f"{unet}.time_mlp.linear_2", time, time)
    shapes |= unet_level(f"{unet}.down_blocks.0", 320, 16, time, inner)
    shapes |= conv(f"{unet}.down_blocks.0.2.conv", 16, 16, 3)
    shapes |= unet_level(f"{unet}.down_blocks.1", 16, 24, time, inner)
    shapes |= conv(f"{unet}.down_blocks.1.2", 24, 24, 3)
    for n in range(2):
        shapes |= unet_level(f"{unet}.mid_blocks.{n}", 24, 24, time, inner)
    shapes |= unet_level(f"{unet}.up_blocks.0", 48, 16, time, inner)
    shapes |= conv(f"{unet}.up_blocks.0.2.conv", 16, 16, 4)
    shapes |= unet_level(f"{unet}.up_blocks.1", 32, 16, time, inner)
    shapes |= conv(f"{unet}.up_blocks.1.2", 16, 16, 3)
    shapes |= conv(f"{unet}.final_block.block.0", 16, 16, 3) | norm(
        f"{unet}.final_block.block.1", 16
    )
    return shapes | conv(f"{unet}.final_proj", 16, mels, 1)


def normed_conv(name, size, out, kernel, transposed=False):
    rows = (size, out) if transposed else (out, size)
    return {
        f"{name}.weight_g": (rows[0], 1, 1),
        f"{name}.weight_v": (*rows, kernel),
        f"{name}.bias": (out,),
    }


def snake_block(name, channels, kernel):
    shapes = {}
    for n in range(3):
        for which in "12":
            shapes |= normed_conv(f"{name}.convs{which}.{n}", channels, channels, kernel)
            shapes[f"{name}.activations{which}.{n}.alpha"] = (channels,)
    return shapes


def hift_shapes():
    """Shapes of the vocoder that `DECODER` describes, as old weight norms name them."""
    shapes = linear("m_source.l_linear", 9, 1) | normed_conv("conv_pre", 80, 16, 7)
    shapes |= normed_conv("ups.0", 16, 8, 16, transposed=True)
    shapes |= normed_conv("ups.1", 8, 4, 16, transposed=True)
    shapes |= conv("source_downs.0", 18, 8, 16) | conv("source_downs.1", 18, 4, 1)
    shapes |= snake_block("source_resblocks.0", 8, 7) | snake_block("source_resblocks.1", 4, 11)
    for n, kernel in enumerate((3, 7, 11) * 2):
        shapes |= snake_block(f"resblocks.{n}", 8 if n < 3 else 4, kernel)
    shapes |= normed_conv("conv_post", 4, 18, 7)
    for n in range(5):
        shapes |= normed_conv(f"f0_predictor.condnet.{2 * n}", 80 if n == 0 else 8, 8, 3)
    return shapes | linear("f0_predictor.classifier", 8, 1)


def write_decoder(folder, codes=48):
    """A folder as GLM-4-Voice's decoder is published in, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(DECODER.replace("vocab_size: 48", f"vocab_size: {codes}"))
    weights = random_weights(flow_shapes(codes), 1), random_weights(hift_shapes(), 2)
    torch.save(weights[0], folder / "flow.pt")
    torch.save(weights[1], folder / "hift.pt")
    return weights


def write_released_folders(folder):
    """The three folders that recipes name, small inside, with the widths and ids of the release."""
    write_sense_voice(
        folder / "SenseVoiceSmall",
        {**SENSE_VOICE, "output_size": 512, "num_blocks": 1, "tp_blocks": 1},
    )
    write_tokenizer(folder / "glm-4-voice-tokenizer", {**TOKENIZER, "quantize_vocab_size": 16384})
    write_decoder(folder / "glm-4-voice-decoder", codes=16384)
