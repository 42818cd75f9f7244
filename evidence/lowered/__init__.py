"""Operators that parsers lower badly, as plans cure them: built and run by TensorRT 10.6."""
