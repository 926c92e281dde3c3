"""A small SAM 2 of seeded weights, in transformers' format."""

from pathlib import Path

import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

SIDE = 128


def small_config() -> Sam2VideoConfig:
    """A SAM 2 for pictures of 128 pixels a side, with a layer of everything."""
    grids = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
    }  # fmt: skip
    return Sam2VideoConfig(
        image_size=SIDE,
        vision_config={
            "model_type": "sam2_vision_model", "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": grids,
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={
            "hidden_size": 128, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 128, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=grids[-1],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128, memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32, memory_fuser_num_layers=1,
    )  # fmt: skip


def build(directory: Path) -> None:
    """Write one to a directory."""
    torch.manual_seed(0)
    model = Sam2VideoModel(small_config())
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "layer_scale" not in name:
                value.copy_(0.3 * torch.randn_like(value))
        # Without it, half of such networks find that there is no object, and mask nothing.
        last = model.mask_decoder.pred_obj_score_head.proj_out
        last.weight.zero_()
        last.bias.fill_(10.0)
    model.save_pretrained(directory)
