"""The FP16 simulation against TensorRT 8.6 on a GPU, for whole models."""
