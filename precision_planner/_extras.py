"""Optional packages: imported when a command needs them, with the pip line when they are missing."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from precision_planner.errors import InstallationError, MissingExtraError

# The distributions that own the folder site-packages/onnxruntime. Of two installed together, the files of
# whichever came last win, and removing one breaks the other.
_ONNXRUNTIME_DISTRIBUTIONS = (
    "onnxruntime",
    *(f"onnxruntime-{kind}" for kind in ("gpu", "directml", "openvino", "qnn", "rocm", "training")),
)


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
      module: import name, for example `"onnxruntime"` or `"polygraphy.backend.trt"`.
      extra: the extra of precision-planner that installs it, for example `"cpu"`.
      purpose: what it is needed for, as the subject of the message: "comparing outputs".

    Returns:
      The imported module.

    Raises:
      MissingExtraError: the package is not installed; the message has the exact pip line.
      InstallationError: two distributions of onnxruntime are installed.
    """
    package = module.partition(".")[0]
    if package == "onnxruntime":
        _refuse_two_onnxruntimes()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # An installed package that misses one of its own dependencies must not be reported as absent.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        alternative = " (or gpu for cpu, on a machine with CUDA)" if extra == "cpu" else ""
        line = install_line(extra) + alternative
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed; run in the checkout: {line}",
            package=package,
            extra=extra,
        ) from error


def install_line(extra: str) -> str:
    """The command that brings an extra: of the checkout, as no index has the package."""
    return f'pip install ".[{extra}]"'


def _refuse_two_onnxruntimes() -> None:
    found = [name for name in _ONNXRUNTIME_DISTRIBUTIONS if _is_installed(name)]
    if len(found) > 1:
        raise InstallationError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; run: "
            f"pip uninstall -y {' '.join(found)}, then install the extra cpu or gpu, not both"
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
