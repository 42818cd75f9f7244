"""trtexec and Polygraphy command lines, read into a `Recipe`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from precision_planner.emitting.building import parse_bytes, parse_level, parse_shape
from precision_planner.emitting.migrate.recipe import (
    Clause,
    Recipe,
    RecipeConstraint,
    merged,
    precision_of,
    read_layer_spec,
    read_shapes,
)
from precision_planner.errors import EngineError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LOW = ("fp16", "bf16", "int8", "fp8", "int4")

# trtexec's flags that say how to run or what to print, not what to build.
_TRTEXEC_RUNS = _words(
    """explicitBatch batch iterations duration warmUp sleepTime idleTime infStreams streams exposeDMA noDataTransfers
    useManagedMemory useSpinWait threads useCudaGraph timeDeserialize timeRefit separateProfileRun skipInference
    buildOnly persistentCacheRatio useProfile allocationStrategy verbose avgRuns percentile dumpRefit dumpOutput
    dumpRawBindingsToFile dumpProfile dumpLayerInfo dumpOptimizationProfile exportTimes exportOutput exportProfile
    exportLayerInfo device profilingVerbosity nvtxMode loadInputs loadEngine help h avgTiming minTiming
    monitorMemory skipInference loadEngine"""
)
_POLYGRAPHY_RUNS = _words(
    """--onnxrt --atol --rtol --check-error-stat --val-range --int-min --int-max --float-min --float-max --seed
    --data-loader-script --data-loader-func-name --load-inputs --load-inputs-data --load-outputs --save-inputs
    --save-outputs --save-results --validate --warm-up --iterations --use-subprocess --fail-fast --verbose -v -vv -vvv
    --quiet -q --providers --trt-outputs --onnx-outputs --verbosity --log-format --log-file --show-unified-memory
    --convert-to --model-type --no-shape-check --compare --compare-func --infinities-compare-equal --trt-legacy
    --profiling-verbosity --iters"""
)


def read_trtexec(words: list[str]) -> Recipe:
    """Read a trtexec command line; its flags are `--name=value` (or `--name value`, which people write)."""
    state: dict[str, Any] = {"low": set(), "profiles": {}, "settings": {}, "constraints": [], "formats": {}}
    ignored: list[str] = []
    unknown: list[str] = []
    notes: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        name = name.lstrip("-")
        reader = _TRTEXEC.get(name)
        if not word.startswith("-"):
            unknown.append(word)
        elif name in _LOW:
            state["low"].add(name)
        elif name in _SWITCHES:
            state[_SWITCHES[name]] = True
        elif reader is not None:
            if not equals and queue and not queue[0].startswith("--"):
                value = queue.pop(0)
            if not value:
                raise EngineError(f"{word} needs a value: --{name}=...")
            reader(state, value)
        elif name in _TRTEXEC_RUNS:
            if not equals and queue and not queue[0].startswith("-"):
                queue.pop(0)
            ignored.append(word)
        else:
            unknown.append(word)
    if state.get("versionCompatible"):
        state["settings"]["version_compatible"] = True
    shapes = state.get("shapes")
    if shapes:
        for kind in ("min", "opt", "max"):
            for input_name, shape in shapes.items():
                state["profiles"].setdefault(input_name, {}).setdefault(kind, shape)
    if state.get("dla"):
        notes.append("DLA has no strongly typed mode with FP32 islands: what ran on the DLA runs on the GPU now")
    return Recipe(
        tool="trtexec",
        text=shlex.join(["trtexec", *words]),
        model=state.get("model", ""),
        engine=state.get("engine", ""),
        low=frozenset(state["low"]),
        best=bool(state.get("best")),
        mode=state.get("mode", "none"),
        constraints=merged(state["constraints"]),
        tf32=not state.get("noTF32", False),
        strong=bool(state.get("strong")),
        profiles=_complete(state["profiles"]),
        calibration=state.get("calibration", ""),
        io_formats=state["formats"],
        settings=state["settings"],
        ignored=tuple(ignored),
        unknown=tuple(unknown),
        notes=tuple(notes),
    )


_SWITCHES = {
    "best": "best",
    "noTF32": "noTF32",
    "stronglyTyped": "strong",
    "versionCompatible": "versionCompatible",
    "vc": "versionCompatible",
    "allowGPUFallback": "fallback",
}


def _setting(key: str, convert: Callable[[str], Any] = str) -> Callable[[dict[str, Any], str], None]:
    def read(state: dict[str, Any], value: str) -> None:
        state["settings"][key] = convert(value)

    return read


def _top(key: str) -> Callable[[dict[str, Any], str], None]:
    def read(state: dict[str, Any], value: str) -> None:
        state[key] = value

    return read


def _shape(kind: str) -> Callable[[dict[str, Any], str], None]:
    def read(state: dict[str, Any], value: str) -> None:
        read_shapes(value, kind, state["profiles"])

    return read


def _static_shapes(state: dict[str, Any], value: str) -> None:
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    read_shapes(value, "opt", found)
    state["shapes"] = {name: shapes["opt"] for name, shapes in found.items()}


def _layers(attribute: str) -> Callable[[dict[str, Any], str], None]:
    def read(state: dict[str, Any], value: str) -> None:
        state["constraints"] += read_layer_spec(value, attribute)

    return read


def _plugins(state: dict[str, Any], value: str) -> None:
    state["settings"].setdefault("plugins", []).append(value)


def _pool(state: dict[str, Any], value: str) -> None:
    for entry in value.split(","):
        pool, _, size = entry.partition(":")
        if pool == "workspace":
            # MiB where no unit follows
            state["settings"]["workspace_bytes"] = parse_bytes(size if size[-1:].isalpha() else f"{size}M")


def _formats(which: str) -> Callable[[dict[str, Any], str], None]:
    def read(state: dict[str, Any], value: str) -> None:
        state["formats"][which] = tuple(entry.partition(":")[0].lower() for entry in value.split(","))

    return read


def _capability(state: dict[str, Any], value: str) -> None:
    state["settings"]["hardware_compatible"] = {"ampere+": True, "none": False}.get(value.lower(), value)


_TRTEXEC: dict[str, Callable[[dict[str, Any], str], None]] = {
    "onnx": _top("model"),
    "model": _top("model"),
    "saveEngine": _top("engine"),
    "precisionConstraints": _top("mode"),
    "layerPrecisions": _layers("precision"),
    "layerOutputTypes": _layers("output_type"),
    "calib": _top("calibration"),
    "minShapes": _shape("min"),
    "optShapes": _shape("opt"),
    "maxShapes": _shape("max"),
    "shapes": _static_shapes,
    "workspace": lambda state, value: _pool(state, f"workspace:{value}"),
    "memPoolSize": _pool,
    "builderOptimizationLevel": _setting("optimization_level", parse_level),
    "hardwareCompatibilityLevel": _capability,
    "timingCacheFile": _setting("timing_cache"),
    "plugins": _plugins,
    "staticPlugins": _plugins,
    "dynamicPlugins": _plugins,
    "setPluginsToSerialize": _plugins,
    "inputIOFormats": _formats("inputs"),
    "outputIOFormats": _formats("outputs"),
    "useDLACore": _top("dla"),
}


def read_polygraphy(words: list[str]) -> Recipe:
    """Read a `polygraphy run|convert ...` command line."""
    if words and not words[0].startswith("-"):
        words = words[1:]
    state: dict[str, Any] = {"low": set(), "profiles": {}, "settings": {}, "constraints": [], "scripts": []}
    ignored: list[str] = []
    unknown: list[str] = []
    notes: list[str] = []
    queue = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            if state.get("model"):
                unknown.append(word)
            state.setdefault("model", word)
            continue
        values: list[str] = []
        while queue and not queue[0].startswith("-"):
            # the model may come right behind a flag that takes no value
            if word in _BARE:
                break
            values.append(queue.pop(0))
        if not _read_polygraphy_flag(state, word, values, notes):
            (ignored if word in _POLYGRAPHY_RUNS else unknown).append(" ".join([word, *values]))
    model = str(state.get("model", ""))
    if model.endswith(".py"):
        state["scripts"].append(model)
        model = ""
    return Recipe(
        tool="polygraphy",
        text=shlex.join(["polygraphy", *words]),
        model=model,
        engine=state.get("engine", ""),
        low=frozenset(state["low"]),
        mode=state.get("mode", "none"),
        constraints=merged(state["constraints"]),
        tf32=bool(state.get("tf32")),
        strong=bool(state.get("strong")),
        profiles=_complete(state["profiles"]),
        calibration=state.get("calibration", ""),
        settings={**state["settings"], "scripts": tuple(state["scripts"])},
        ignored=tuple(ignored),
        unknown=tuple(unknown),
        notes=tuple(notes),
    )


_BARE = _words(
    """--trt --fp16 --bf16 --int8 --fp8 --tf32 --strongly-typed --version-compatible --onnxrt --sparse-weights
    --verbose -v -vv -vvv --validate --exclude-lean-runtime --allow-gpu-fallback --use-dla --refittable --strip-plan
    --obey-precision-constraints"""
)
_SCRIPT_OPTIONS = _words(
    """--trt-network-postprocess-script --trt-npps --trt-config-script --trt-config-postprocess-script --trt-cpps
    --trt-network-func-name --trt-config-func-name"""
)


def _read_polygraphy_flag(state: dict[str, Any], word: str, values: list[str], notes: list[str]) -> bool:
    name = word.lstrip("-")
    if name in _LOW:
        state["low"].add(name)
    elif word == "--tf32":
        state["tf32"] = True
    elif word == "--strongly-typed":
        state["strong"] = True
    elif word == "--trt":
        pass
    elif word in ("--precision-constraints",):
        state["mode"] = values[0] if values else "none"
    elif word == "--obey-precision-constraints":
        state["mode"] = "obey"
    elif word == "--layer-precisions":
        state["constraints"] += [_layer_precision(value) for value in values]
        notes.append(
            "Polygraphy's --layer-precisions never set an output type: such a layer could still store FP16; here its "
            "result stays FP32 too"
        )
    elif word == "--tensor-dtypes":
        notes.append("--tensor-dtypes sets interface types: use --io-types of planner rewrite")
    elif word in ("--trt-min-shapes", "--trt-opt-shapes", "--trt-max-shapes"):
        for value in values:
            tensor, _, shape = value.rpartition(":")
            state["profiles"].setdefault(tensor, {})[word[6:9]] = tuple(parse_shape(shape))
    elif word in ("--save-engine", "-o", "--output"):
        state["engine"] = values[0] if values else ""
    elif word == "--calibration-cache":
        state["calibration"] = values[0] if values else ""
    elif word in ("--pool-limit", "--memory-pool-limit", "--workspace"):
        for value in values:
            pool, _, size = value.rpartition(":")
            if pool in ("", "workspace"):
                state["settings"]["workspace_bytes"] = parse_bytes(size)
    elif word == "--builder-optimization-level":
        state["settings"]["optimization_level"] = parse_level(_first(word, values))
    elif word == "--version-compatible":
        state["settings"]["version_compatible"] = True
    elif word == "--hardware-compatibility-level":
        state["settings"]["hardware_compatible"] = (level := _first(word, values)).lower() in (
            "ampere_plus",
            "ampere+",
        ) or level
    elif word in ("--load-timing-cache", "--save-timing-cache"):
        state["settings"]["timing_cache"] = _first(word, values)
    elif word == "--plugins":
        state["settings"].setdefault("plugins", []).extend(values)
    elif word in _SCRIPT_OPTIONS:
        if not word.endswith("func-name"):
            state["scripts"] += [value.rpartition(":")[0] if ".py:" in value else value for value in values]
    elif word == "--model-type":
        pass
    else:
        return False
    return True


def _first(word: str, values: list[str]) -> str:
    if not values:
        raise EngineError(f"{word} needs a value")
    return values[0]


def _layer_precision(value: str) -> RecipeConstraint:
    name, _, kind = value.rpartition(":")
    precision = precision_of(kind)
    if not name or precision is None:
        raise EngineError(f"the constraint {value!r} cannot be read; write LAYER:float32")
    return RecipeConstraint(value, (Clause((("name", (name,)),)),), precision)


def _complete(profiles: dict[str, dict[str, tuple[int, ...]]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Fill in what the tools take for a shape that is not given: opt for min and max, and the other way round."""
    for shapes in profiles.values():
        usual = shapes.get("opt") or shapes.get("max") or shapes["min"]
        for kind in ("min", "opt", "max"):
            shapes.setdefault(kind, usual)
    return profiles
