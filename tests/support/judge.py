"""A small random SAM Audio Judge in transformers' format."""

import json
from pathlib import Path

import torch

from tests.support import parity

CONFIG = {
    "model_type": "sam_audio_judge",
    "architectures": ["SamAudioJudgeModel"],
    "bottleneck_dim": 24,
    "nth_text_layer": 1,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "head_dim": 16,
    "text_config": {
        "model_type": "modernbert", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1,
        "max_position_embeddings": 64,
    },
    "audio_config": {
        "model_type": "pe_audio_encoder", "hidden_size": 48, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
        "dac_config": {
            "model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 8, 10, 12],
            "codebook_dim": 128, "hidden_size": 64,
        },
    },
}  # fmt: skip


def write(directory: Path) -> Path:
    """Write the configuration, the weights with their codec, and a tokenizer."""
    from safetensors.torch import save_file

    from onnx_export.networks.judge import Judge

    torch.manual_seed(0)
    model = Judge(CONFIG)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn_like(value) if value.ndim > 1 else 1 + 0.1 * value)
    state = {
        name.replace("audio_proj.", "audio_encoder.embedder.data_proj.")
        if name.startswith("audio_proj.")
        else name: value.contiguous()
        for name, value in model.state_dict().items()
    }
    # The codec, and the text model behind the layer that is used, are in the file all the same.
    state["audio_encoder.embedder.bottleneck.weight"] = torch.zeros(128, 64, 1)
    state["text_model.layers.1.mlp.Wi.weight"] = torch.zeros(1)
    state["text_model.final_norm.weight"] = torch.zeros(32)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    parity.write_tokenizer(directory)
    return directory
