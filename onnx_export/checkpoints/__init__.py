"""Published checkpoints and how they become the modules of `onnx_export.networks`."""
