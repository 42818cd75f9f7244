"""Engine files: which TensorRT built one, and its layers by the inspector where that can be loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from precision_planner.engines.layers import EngineInfo, read_layers
from precision_planner.errors import EngineError, MissingExtraError

# The first four bytes; the version follows at byte 24, one byte for each of major, minor, patch and build.
_MAGIC = {b"ptrt": "tensorrt", b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def engine_origin(head: bytes) -> tuple[str, str] | None:
    """(the module that loads it, its version) from a file's first 32 bytes; None for what is no engine."""
    module = _MAGIC.get(head[:4])
    if module is None:
        return None
    version = ".".join(str(byte) for byte in head[24:28]) if len(head) >= 28 else "?"
    return module, version


def read_engine(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    plugins: Sequence[str] = (),
    folder: Path | None = None,
    host_code: bool = False,
) -> EngineInfo:
    """The layers of an engine file, by the TensorRT that built it.

    Args:
      path: the engine.
      plugins: libraries that the engine's plugins come from.
      host_code: run code that the engine brings for the host (a version-compatible engine carries its own runtime);
        only for an engine that one trusts.
      folder: where relative names of these are looked up first.
      shapes: input -> shape, for a dynamic engine; by default the first profile's usual shapes. Without shapes the
        inspector of 8.x leaves out all types.

    Raises:
      EngineError: not an engine, of another version, or no GPU to load it on.
      MissingExtraError: the TensorRT that built it is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}; give an engine or exported layer information") from None
    origin = engine_origin(data)
    if origin is None:
        raise EngineError(f"{path} is not a TensorRT engine; give an engine or trtexec's --exportLayerInfo file")
    module, version = origin
    trt = _load(module, path, version)
    if not has_gpu():
        raise EngineError(
            f"{path} (built by {_NAMES[module]} {version}) can be loaded only where its GPU is: there, run trtexec "
            "--loadEngine=FILE --profilingVerbosity=detailed --exportLayerInfo=layers.json, and inspect layers.json"
        )
    _load_plugins(plugins, folder)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if host_code and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            f"{path} was built by {_NAMES[module]} {version} for its own GPU; {_NAMES[module]} {trt.__version__} here "
            "cannot load it: inspect it on the machine that built it, or, if it is version-compatible "
            "and you trust it, with --allow-host-code"
        )
    inspector = engine.create_engine_inspector()
    context = _context(engine, shapes)
    if context is not None:
        inspector.execution_context = context
    return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON), str(path))


def _load_plugins(libraries: Sequence[str], folder: Path | None) -> None:
    import ctypes

    for library in libraries:
        path = folder / library if folder is not None and (folder / library).exists() else Path(library)
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise EngineError(f"the plugin library {library} cannot be loaded: {error}") from None


def has_gpu() -> bool:
    """Whether NVIDIA's driver is here and sees a GPU."""
    import ctypes

    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuInit(0)) == 0


def installed_tensorrt() -> tuple[str, ...]:
    """Which of tensorrt and tensorrt_rtx can be imported here."""
    import importlib.util

    return tuple(name for name in _NAMES if importlib.util.find_spec(name) is not None)


def _load(module: str, path: Path, version: str) -> Any:
    from precision_planner._extras import require

    extra = "rtx" if module == "tensorrt_rtx" else "tensorrt"
    try:
        return require(module, extra=extra, purpose=f"inspecting {path.name} (built by {_NAMES[module]} {version})")
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{error}; or inspect what trtexec --loadEngine={path.name} --exportLayerInfo=layers.json wrote",
            package=error.package,
            extra=error.extra,
        ) from None


def _context(engine: Any, shapes: Mapping[str, Sequence[int]] | None) -> Any:
    """An execution context with shapes, None where it cannot be made (then types may be missing)."""
    context = engine.create_execution_context()
    if context is None:
        return None
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if "INPUT" not in str(engine.get_tensor_mode(name)) or -1 not in tuple(engine.get_tensor_shape(name)):
            continue
        shape = (shapes or {}).get(name) or tuple(engine.get_tensor_profile_shape(name, 0)[1])
        if not context.set_input_shape(name, tuple(shape)):
            raise EngineError(f"the engine does not take shape {tuple(shape)} for input {name!r}")
    return context


def parse_layers_file(
    path: Path, profile: Path | None = None, plugins: Sequence[str] = (), *, host_code: bool = False
) -> EngineInfo:
    """Read an engine, exported layer information or a builder's log, whichever the file is."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
        if engine_origin(head) is not None:
            from precision_planner.engines.layers import with_times

            info = read_engine(path, plugins=plugins, host_code=host_code)
            return info if profile is None else with_times(info, profile.read_text("utf-8"))
        text = path.read_text("utf-8")
        times = None if profile is None else profile.read_text("utf-8")
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}; give an engine or its layer information") from None
    except UnicodeDecodeError:
        raise EngineError(f"{path} is neither an engine nor text; give an engine or layer information") from None
    return read_layers(text, str(path), times)


def to_json(data: Mapping[str, Any]) -> str:
    """JSON with stable order."""
    return json.dumps(data, indent=1, ensure_ascii=False)
