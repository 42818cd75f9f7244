#!/usr/bin/env python3
"""Build the engine of the plan in this folder, so that the plan provably takes effect.

    python3 build.py                      builds model.engine beside this file
    python3 build.py -o FILE --verbose    elsewhere, with the builder's whole log
    polygraphy run build.py --model-type trt-network-script --trt --trt-config-script build.py ...
                                          the same network and settings in Polygraphy

Needs TensorRT (or TensorRT-RTX) and Python 3.8 or newer; Polygraphy 0.49 or newer drives it as well, by load_network
and load_config. The folder can be moved or copied as a whole. Written by precision-planner; what is decided stands in
plan.json. Network and settings are made by TensorRT's own interface, because Polygraphy 0.49's fails on TensorRT 11
(`ILayer.precision_is_set` is gone) and takes TensorRT-RTX's 1.x for a TensorRT before 10.

A strongly typed plan (TensorRT 11, TensorRT-RTX, 10 with its flag) carries its precision in the types of model.onnx:
the network is built strongly typed or not at all. A weakly typed plan (8.6, 10) sets the precision *and* the output
type of every layer of the nodes that stay FP32, under "obey", and raises on a constraint that matches no layer. Either
raises when the plan asks for FP16 or BF16 and the network, or where it can be seen the engine, has none.
"""

import argparse
import json
import os
import re
import sys

# onnxruntime 1.29 and newer report what they load unless this is set; your own setting wins
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

HERE = os.path.dirname(os.path.abspath(__file__))


def read_plan():
    """plan.json, with what PLAN_OVERRIDES (JSON: {"build": {...}, "profiles": {...}}) changes for this one build."""
    with open(os.path.join(HERE, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    for key, value in json.loads(os.environ.get("PLAN_OVERRIDES") or "{}").items():
        plan[key] = dict(plan.get(key) or {}, **value) if isinstance(value, dict) else value
    return plan


PLAN = read_plan()
if PLAN["target_facts"]["runtime"] == "tensorrt_rtx":
    os.environ.setdefault("POLYGRAPHY_USE_TENSORRT_RTX", "1")


def is_rtx():
    return PLAN["target_facts"]["runtime"] == "tensorrt_rtx"


def tensorrt():
    """The module: tensorrt_rtx where the plan, or POLYGRAPHY_USE_TENSORRT_RTX, says so."""
    if os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX", "0") != "0":
        import tensorrt_rtx

        return tensorrt_rtx
    import tensorrt

    return tensorrt


_LOGGER = []


def get_logger(verbose=False):
    """Polygraphy's logger where it is installed (TensorRT keeps the first logger of a process), or one of our own."""
    if not _LOGGER:
        trt = tensorrt()
        try:
            from polygraphy.backend.trt import get_trt_logger
            from polygraphy.logger import G_LOGGER

            if verbose:
                G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
            _LOGGER.append(get_trt_logger())
        except ImportError:
            _LOGGER.append(trt.Logger(trt.Logger.VERBOSE if verbose else trt.Logger.INFO))
    return _LOGGER[0]


def check_version():
    """Stop before anything is parsed, where this TensorRT cannot build this plan."""
    trt = tensorrt()
    installed = "TensorRT-RTX" if trt.__name__.startswith("tensorrt_rtx") else "TensorRT"
    major = int(trt.__version__.split(".")[0])
    instead = PLAN["target_facts"]["instead"]
    if not PLAN["target_facts"]["has_builder"]:
        raise SystemExit("build.py: this plan is for onnxruntime, which builds no engine: use run.py and verify.py")
    if is_rtx() != (installed == "TensorRT-RTX"):
        raise SystemExit(
            "build.py: this plan is for %s, but %s is what is used here: plan again with --target %s"
            % (PLAN["target"], installed, instead["tensorrt" if is_rtx() else "tensorrt_rtx"])
        )
    if PLAN["typing"] == "weak" and major >= 11:
        raise SystemExit(
            "build.py: this plan is weakly typed, which TensorRT %d no longer builds: "
            "plan again with --target %s" % (major, instead["tensorrt"])
        )
    if PLAN["typing"] == "strong" and not is_rtx() and major < 10:
        weak = instead["weak"].get(str(major)) or sorted(instead["weak"].values())[-1]
        raise SystemExit(
            "build.py: this plan is strongly typed, which TensorRT %d does not build: "
            "plan again with --target %s" % (major, weak)
        )


def load_plugins():
    """Load the plan's plugin libraries; raise where one is missing or registers nothing."""
    import ctypes

    registry = tensorrt().get_plugin_registry() if PLAN["build"].get("plugins") else None
    for library in PLAN["build"].get("plugins") or []:
        path = os.path.join(HERE, library)  # an absolute path stays as it is
        path = path if os.path.exists(path) else library
        known = _creators(registry)
        try:
            loaded = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise SystemExit("build.py: the plugin library %s cannot be loaded: %s" % (library, error)) from None
        if _creators(registry) > known or path in _LOADED:
            _LOADED.add(path)
            continue
        # a library without static registration offers its creators to the registry instead
        if hasattr(loaded, "getCreators") or hasattr(loaded, "getPluginCreators"):
            registry.load_library(path)
        _LOADED.add(path)
        if _creators(registry) == known:
            print("build.py: warning: %s registered no new plugin" % library)


_LOADED = set()


def _creators(registry):
    return len(getattr(registry, "all_creators", None) or getattr(registry, "plugin_creator_list", ()))


# --- weakly typed: constraints


# newer parsers say behind a node of a body where it stands: NODE | GRAPH (then_branch) | HOLDER (If)
_IN_A_BODY = re.compile(r" \| [^|]*\((?:then_branch|else_branch|body)\)(?: \| [^|]*)*$")


def _names_of(layer):
    """The ONNX nodes a layer belongs to: TensorRT 8.6 and newer keep them as metadata."""
    entries = (getattr(layer, "metadata", "") or "").split("[ONNX Layer: ")[1:]
    # a name may itself hold brackets: the last one ends the entry
    return [_IN_A_BODY.sub("", entry[: entry.rfind("]")]) for entry in entries]


def match_constraints(layers, constraints):
    """Find the layers of every constraint.

    layers: [(metadata names, output names, layer name)]. Returns one list of layer positions a constraint: by the
    ONNX node's name in the metadata, and, for what has none there (LayerNormalization up to TensorRT 10.0), by an
    output tensor; only then by the layer's own name. A node without a name is known by its first output. A name that
    several nodes share reaches the layers of them all: more may stay FP32 than was asked, never less.
    Raises ValueError naming every constraint without a layer.
    """
    by_metadata, by_output, by_name = {}, {}, {}
    for position, (names, outputs, own) in enumerate(layers):
        for name in names:
            by_metadata.setdefault(name, []).append(position)
        for output in outputs:
            by_output.setdefault(output, []).append(position)
        by_name.setdefault(own, []).append(position)
    found, unmatched = [], []
    for constraint in constraints:
        outputs = [output for output in constraint["outputs"] if output]
        name = constraint["node"] or ("node_of_" + outputs[0] if outputs else "")
        positions = set(by_metadata.get(name, ())) if name else set()
        for output in outputs:
            positions.update(by_output.get(output, ()))
        if not positions and name:
            positions.update(by_name.get(name, ()))
        if not positions:
            unmatched.append(constraint["node"] or "node of output %s" % constraint["outputs"])
        found.append(sorted(positions))
    if unmatched:
        raise ValueError(
            "build.py: %d of %d constraints match no layer of the network, so the plan would silently "
            "not apply: %s" % (len(unmatched), len(constraints), ", ".join(unmatched[:10]))
        )
    return found


def _floats(trt):
    return (trt.float32, trt.float16, getattr(trt, "bfloat16", trt.float16))


def _settable(layer, trt):
    """The outputs of a layer whose type can be set: floats that are computed on the GPU."""
    numbers = []
    for number in range(layer.num_outputs):
        tensor = layer.get_output(number)
        if tensor.dtype not in _floats(trt):
            continue
        if getattr(tensor, "is_shape_tensor", False) and not getattr(tensor, "is_execution_tensor", True):
            continue
        numbers.append(number)
    return numbers


def _helpers(network, position, producers, trt):
    """The shuffles that the parser put before a layer to broadcast a constant: they belong to it, and have no node.

    Left in FP16 they would round (or overflow) the constant before the FP32 layer sees it.
    """
    found, queue = [], [position]
    while queue:
        layer = network.get_layer(queue.pop())
        for number in range(layer.num_inputs):
            tensor = layer.get_input(number)
            source = producers.get(tensor.name) if tensor is not None else None
            if source is None or source in found:
                continue
            before = network.get_layer(source)
            if before.type == trt.LayerType.SHUFFLE and not _names_of(before):
                found.append(source)
                queue.append(source)
    return found


def _apply_constraints(network):
    """Set precision and output types; returns [(constraint, names of its layers)] for the report."""
    trt = tensorrt()
    types = {"fp32": trt.float32, "fp16": trt.float16}
    if hasattr(trt, "bfloat16"):
        types["bf16"] = trt.bfloat16
    layers, producers = [], {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number).name for number in range(layer.num_outputs)]
        producers.update((name, index) for name in outputs)
        layers.append((_names_of(layer), outputs, layer.name))
    applied, report = set(), []
    constraints = PLAN["constraints"]
    for constraint, positions in zip(constraints, match_constraints(layers, constraints)):
        names = []
        for position in positions:
            for target in [position, *_helpers(network, position, producers, trt)]:
                layer = network.get_layer(target)
                numbers = _settable(layer, trt)
                names.append(layer.name)
                if not numbers or layer.type == trt.LayerType.CONSTANT:
                    continue  # integers, booleans, shapes and constants have no precision to set
                layer.precision = types[constraint["precision"]]
                for number in numbers:
                    layer.set_output_type(number, types[constraint["output_type"]])
                applied.add(target)
        report.append((constraint, names))
    kinds = "/".join(sorted({entry["precision"] for entry in constraints})) or "nothing"
    print("build.py: %d constraints matched, %d layers set to %s" % (len(constraints), len(applied), kinds))
    return report


# --- what the network is, before it is built


def asks_low():
    """Whether the plan computes anything in its low precision."""
    return any(node["precision"] == PLAN["precision"] for node in PLAN["nodes"])


def _check_strong(network):
    trt = tensorrt()
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    if hasattr(network, "get_flag") and not network.get_flag(flag):
        raise SystemExit("build.py: the network is not strongly typed, so the types in model.onnx would not hold")
    low = trt.float16 if PLAN["precision"] == "fp16" else trt.bfloat16
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if any(layer.get_output_type(number) == low for number in range(layer.num_outputs)):
            return
    if asks_low():
        raise SystemExit(
            "build.py: the plan asks for %s, but no layer of the network has that type: the engine would be FP32; "
            "model.onnx is not this plan's model" % PLAN["precision"].upper()
        )


def _check_weak(builder):
    if PLAN["precision"] == "fp16" and asks_low() and not getattr(builder, "platform_has_fast_fp16", True):
        raise SystemExit("build.py: the plan asks for FP16, which this GPU has no fast kernels for: it would stay FP32")


def _write_report(network, constraints):
    """Say what the network is, layer by layer, where PLAN_REPORT names a file."""
    path = os.environ.get("PLAN_REPORT")
    if not path:
        return
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = (layer.get_input(number) for number in range(layer.num_inputs))
        layers.append(
            {
                "name": layer.name,
                "kind": layer.type.name,
                "nodes": _names_of(layer),
                "inputs": ["" if tensor is None else tensor.dtype.name for tensor in inputs],
                "outputs": [layer.get_output(number).name for number in range(layer.num_outputs)],
                "types": [layer.get_output_type(number).name for number in range(layer.num_outputs)],
            }
        )
    report = {
        "tensorrt": tensorrt().__version__,
        "library": tensorrt().__name__,
        "layers": layers,
        "constraints": [dict(constraint, layers=names) for constraint, names in constraints],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file)


# --- what Polygraphy calls


def parse(model="model.onnx"):
    """(builder, network, parser) of a model of this folder, without the plan's constraints."""
    check_version()
    load_plugins()
    trt = tensorrt()
    logger = get_logger()
    flags = trt.NetworkDefinitionCreationFlag
    major = int(trt.__version__.split(".")[0])
    chosen = 0
    if PLAN["typing"] == "strong":
        chosen |= 1 << int(flags.STRONGLY_TYPED)
    if major < 10 and not is_rtx():
        chosen |= 1 << int(flags.EXPLICIT_BATCH)
    builder = trt.Builder(logger)
    network = builder.create_network(chosen)
    trt.init_libnvinfer_plugins(logger, "")
    parser = trt.OnnxParser(network, logger)
    if (PLAN["build"].get("version_compatible") or PLAN["build"].get("hardware_compatible")) and not is_rtx():
        # the plugin that 8.6 makes of InstanceNormalization otherwise is in no lean runtime
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse_from_file(os.path.join(HERE, model)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        names = [error.node_name() if hasattr(error, "node_name") else "node %d" % error.node() for error in errors]
        words = "; ".join("%s: %s" % (name or "(no node)", e.desc().strip()) for name, e in zip(names, errors))
        raise SystemExit("build.py: TensorRT %s cannot parse %s: %s" % (trt.__version__, model, words))
    return builder, network, parser


def load_network():
    """(builder, network, parser) of the plan: parsed, and, where typing is weak, with its constraints applied."""
    builder, network, parser = parse()
    constraints = []
    if PLAN["typing"] == "strong":
        _check_strong(network)
    else:
        _check_weak(builder)
        constraints = _apply_constraints(network)
    for name in PLAN["interface"]["outputs"]:
        if name not in [network.get_output(n).name for n in range(network.num_outputs)]:
            raise SystemExit("build.py: the network has no output %r; model.onnx is not this plan's model" % name)
    _write_report(network, constraints)
    return builder, network, parser


def _timing_cache():
    """The timing cache's path; None without one (TensorRT-RTX builds in seconds and times nothing)."""
    cache = PLAN["build"].get("timing_cache", "timing.cache")
    return None if not PLAN["target_facts"]["timing_cache"] or not cache else os.path.join(HERE, cache)


def load_config(builder, network, low=True):
    """The builder's settings of the plan; with `low` False those of the same build in plain FP32, without TF32."""
    trt = tensorrt()
    settings = PLAN["build"]
    config = builder.create_builder_config()
    if PLAN["profiles"]:
        config.add_optimization_profile(_profile(builder, network))
    tf32 = low and settings.get("tf32", False)  # TensorRT's own default is on
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.get("workspace_bytes"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings["workspace_bytes"]))
    if settings.get("tactic_sources") is not None:  # names of trt.TacticSource; [] where cuBLAS and cuDNN are missing
        sources = (getattr(trt.TacticSource, name) for name in settings["tactic_sources"])
        config.set_tactic_sources(sum(1 << int(source) for source in sources))
    if settings.get("optimization_level") is not None:
        config.builder_optimization_level = int(settings["optimization_level"])
    if settings.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = settings.get("hardware_compatible")
    if level:
        name = "AMPERE_PLUS" if level is True else str(level).upper().replace("+", "_PLUS")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, name)
    if PLAN["typing"] == "weak" and low:
        kept = {entry["precision"] for entry in PLAN["constraints"]} - {"fp32"}
        for name in (*sorted(kind.upper() for kind in kept | {PLAN["precision"]}), "OBEY_PRECISION_CONSTRAINTS"):
            flag = getattr(trt.BuilderFlag, name, None)
            if flag is None:
                raise SystemExit("build.py: TensorRT %s has no builder flag %s" % (trt.__version__, name))
            config.set_flag(flag)
    _load_timing_cache(config)
    _set_compute_capabilities(config)
    return config


def _profile(builder, network):
    """The plan's shapes as an optimization profile; raises where an input is unknown or a shape does not fit."""
    inputs = {network.get_input(number).name: network.get_input(number) for number in range(network.num_inputs)}
    profile = builder.create_optimization_profile()
    for name, shapes in PLAN["profiles"].items():
        if name not in inputs:
            raise SystemExit("build.py: the plan has shapes for %r, but the inputs are %s" % (name, sorted(inputs)))
        values = tuple(tuple(shapes[kind]) for kind in ("min", "opt", "max"))
        (profile.set_shape_input if inputs[name].is_shape_tensor else profile.set_shape)(name, *values)
    missing = [name for name, tensor in inputs.items() if -1 in tuple(tensor.shape) and name not in PLAN["profiles"]]
    if missing:
        raise SystemExit("build.py: the plan has no shapes for the dynamic inputs %s: plan again" % ", ".join(missing))
    return profile


def _load_timing_cache(config):
    path = _timing_cache()
    if path is None:
        return
    data = b""
    if os.path.exists(path):
        with open(path, "rb") as file:
            data = file.read()
    # a cache of another GPU or version is refused by TensorRT, which then times everything anew
    config.set_timing_cache(config.create_timing_cache(data), False)


def _save_timing_cache(config):
    path = _timing_cache()
    cache = config.get_timing_cache() if path is not None else None
    if cache is None:
        return
    if not os.access(os.path.dirname(path), os.W_OK):
        print("build.py: %s cannot be written, so no timing cache is kept" % os.path.dirname(path))
        return
    with open(path + ".part", "wb") as file:
        file.write(bytes(cache.serialize()))
    os.replace(path + ".part", path)


def _set_compute_capabilities(config):
    """TensorRT-RTX builds for GPUs that are not there; without a GPU it must be told which."""
    wanted = os.environ.get("PLAN_COMPUTE_CAPABILITIES", "") or PLAN["build"].get("compute_capabilities", "")
    if not wanted or not hasattr(config, "num_compute_capabilities"):
        return
    trt = tensorrt()
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    config.num_compute_capabilities = len(names)
    for number, name in enumerate(names):
        name = name.strip().upper().replace(".", "")
        name = name if name.startswith("SM") or name == "CURRENT" else "SM" + name
        if not hasattr(trt.ComputeCapability, name):
            raise SystemExit("build.py: TensorRT-RTX %s knows no compute capability %s" % (trt.__version__, name))
        config.set_compute_capability(getattr(trt.ComputeCapability, name), number)


def build_engine():
    """The serialized engine."""
    builder, network, _parser = load_network()  # the parser owns the weights: it lives until the engine is built
    config = load_config(builder, network)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("build.py: TensorRT built no engine; its log above says why")
    _save_timing_cache(config)
    return bytes(engine)


def main():
    parser = argparse.ArgumentParser(description="build the engine of this plan")
    parser.add_argument("-o", "--output", default=os.path.join(HERE, "model.engine"))
    parser.add_argument("--compute-capabilities", help="TensorRT-RTX: build for these GPUs, e.g. SM89,SM120")
    parser.add_argument("--allow-fp32", action="store_true", help="accept an engine without the plan's precision")
    parser.add_argument("--verbose", action="store_true", help="the builder's whole log")
    arguments = parser.parse_args()
    if arguments.compute_capabilities:
        os.environ["PLAN_COMPUTE_CAPABILITIES"] = arguments.compute_capabilities
    check_version()
    get_logger(arguments.verbose)
    engine = build_engine()
    if HERE not in sys.path:
        sys.path.insert(0, HERE)
    import engine_types

    if not engine_types.check(sys.modules[__name__], engine) and not arguments.allow_fp32:
        raise SystemExit(1)
    temporary = arguments.output + ".part"
    with open(temporary, "wb") as file:
        file.write(engine)
    os.replace(temporary, arguments.output)
    print("build.py: wrote %s (%.1f MB)" % (arguments.output, len(engine) / 1e6))
    return 0


if __name__ == "__main__":
    sys.exit(main())
