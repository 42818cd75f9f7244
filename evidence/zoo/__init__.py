"""Exported architectures, converted by ours and by every peer, run on a GPU: onnxruntime and TensorRT 10.6."""
