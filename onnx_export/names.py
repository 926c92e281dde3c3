"""Which layer of ours is which in an official checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_export.dacvae import CodecConfig
from onnx_export.sam_audio import SamAudioConfig

_UNIT_LAYERS = ("snake_in", "dilated", "snake_out", "pointwise")


def _codec_layers(config: CodecConfig) -> Iterator[tuple[str, str]]:
    """Pairs of our layer and the official one, for the codec."""
    depth = len(config.encoder_rates)
    encoder, theirs = "codec.encoder", "audio_codec.encoder.block"
    yield f"{encoder}.entry", f"{theirs}.0"
    for i in range(depth):
        for unit in range(3):
            for k, layer in enumerate(_UNIT_LAYERS):
                yield (
                    f"{encoder}.blocks.{i}.units.{unit}.{layer}",
                    f"{theirs}.{i + 1}.block.{unit}.block.{k}",
                )
        yield f"{encoder}.blocks.{i}.snake", f"{theirs}.{i + 1}.block.3"
        yield f"{encoder}.blocks.{i}.down", f"{theirs}.{i + 1}.block.4"
    yield f"{encoder}.snake", f"{theirs}.{depth + 1}"
    yield f"{encoder}.exit", f"{theirs}.{depth + 2}"
    yield "codec.encoder.mean", "audio_codec.quantizer.in_proj"
    yield "codec.decoder.features", "audio_codec.quantizer.out_proj"

    depth = len(config.decoder_rates)
    decoder, theirs = "codec.decoder", "audio_codec.decoder.model"
    mark = f"{decoder}.watermark"
    yield f"{decoder}.entry", f"{theirs}.0"
    for i in range(depth):
        block = f"{theirs}.{i + 1}.block"
        yield f"{decoder}.blocks.{i}.snake", f"{block}.0"
        yield f"{decoder}.blocks.{i}.up", f"{block}.1"
        for unit, index in enumerate((4, 5, 8)):
            for k, layer in enumerate(_UNIT_LAYERS):
                yield f"{decoder}.blocks.{i}.units.{unit}.{layer}", f"{block}.{index}.block.{k}"
        # The official blocks also carry the watermark's layers: upwards 3 and 6 in the order of
        # the decoder, downwards 7 and 11 against it.
        up, down = f"{mark}.ups.{i}", f"{mark}.downs.{depth - 1 - i}"
        yield f"{up}.up", f"{block}.3"
        yield f"{up}.unit.squeeze", f"{block}.6.block.1"
        yield f"{up}.unit.expand", f"{block}.6.block.3"
        yield f"{down}.unit.squeeze", f"{block}.7.block.1"
        yield f"{down}.unit.expand", f"{block}.7.block.3"
        yield f"{down}.down", f"{block}.11"
    theirs = "audio_codec.decoder.wm_model"
    yield f"{decoder}.snake", f"{theirs}.encoder_block.pre.0"
    yield f"{decoder}.exit", f"{theirs}.encoder_block.pre.1"
    yield f"{mark}.entry", f"{theirs}.encoder_block.pre.3"
    yield f"{mark}.squeeze", f"{theirs}.encoder_block.post.2"
    yield f"{mark}.bits", f"{theirs}.msg_processor.msg_processor"
    yield f"{mark}.expand", f"{theirs}.decoder_block.pre.0"
    for depth in range(2):
        yield f"{mark}.lstm_in.layers.{depth}", f"{theirs}.encoder_block.post.0.lstm"
        yield f"{mark}.lstm_out.layers.{depth}", f"{theirs}.decoder_block.pre.1.lstm"
    yield f"{mark}.exit", f"{theirs}.decoder_block.post.1"


def official_layers(config: SamAudioConfig) -> dict[str, str]:
    """Map our layers to the official ones, wherever the names differ.

    A parameter that is a layer of its own (the watermark's table of bits) is listed by its name.
    Below ``velocity_network.`` a layer that isn't listed has the official name.
    """
    network = "velocity_network"
    return {
        **dict(_codec_layers(config.codec)),
        f"{network}.proj": "proj",
        f"{network}.memory_proj": "memory_proj",
        f"{network}.visual": "align_masked_video",
        f"{network}.visual.conv": "align_masked_video.conv",
        f"{network}.visual.layer_norm": "align_masked_video.layer_norm",
        f"{network}.spans": "embed_anchors",
        f"{network}.spans.embed": "embed_anchors.embed",
        f"{network}.spans.proj": "embed_anchors.proj",
    }
