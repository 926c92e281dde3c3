"""From request to waveforms: graphs in ONNX Runtime, and the stages that run them."""
