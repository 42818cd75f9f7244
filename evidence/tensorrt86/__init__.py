"""Measurements on a GPU with TensorRT 8.6.0, the last weakly typed release on PyPI; see README.md here."""
