"""What TensorRT 10.6 makes of small typed and untyped graphs: kernels, bytes, errors against float64, milliseconds."""
