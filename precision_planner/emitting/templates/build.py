#!/usr/bin/env python3
"""Build the engine of the plan in this folder, so that the plan provably takes effect.

    python3 build.py                      builds model.engine beside this file
    python3 build.py -o FILE --verbose    elsewhere, with the builder's whole log
    polygraphy run build.py --trt --trt-config-script build.py ...     the same network and settings in Polygraphy

Needs TensorRT (or TensorRT-RTX), Polygraphy 0.49 or newer and Python 3.8 or newer; nothing else. The folder can be
moved or copied as a whole. Written by precision-planner; what is decided stands in plan.json.

A strongly typed plan (TensorRT 11, TensorRT-RTX, 10 with its flag) carries its precision in the types of model.onnx:
the network is built strongly typed or not at all. A weakly typed plan (8.6, 10) sets the precision *and* the output
type of every layer of the nodes that stay FP32, under "obey", and raises on a constraint that matches no layer.
"""

import argparse
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def read_plan():
    with open(os.path.join(HERE, "plan.json"), encoding="utf-8") as file:
        return json.load(file)


PLAN = read_plan()
if PLAN["target"] == "tensorrt-rtx":
    os.environ.setdefault("POLYGRAPHY_USE_TENSORRT_RTX", "1")

from polygraphy import func  # noqa: E402  (the line above chooses which TensorRT Polygraphy imports)
from polygraphy.backend.trt import (  # noqa: E402
    CreateConfig,
    EngineBytesFromNetwork,
    NetworkFromOnnxPath,
    Profile,
)


def tensorrt():
    if os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX", "0") != "0":
        import tensorrt_rtx

        return tensorrt_rtx
    import tensorrt

    return tensorrt


def _network_options():
    return {"strongly_typed": True} if PLAN["typing"] == "strong" else {}


def _check_version():
    major = int(tensorrt().__version__.split(".")[0])
    weak = PLAN["typing"] == "weak"
    if weak and (major >= 11 or PLAN["target"] == "tensorrt-rtx"):
        raise SystemExit(
            "build.py: this plan is weakly typed, which TensorRT %d no longer builds: "
            "plan again with --target tensorrt-11" % major
        )
    if not weak and PLAN["target"] != "tensorrt-rtx" and major < 10:
        raise SystemExit(
            "build.py: this plan is strongly typed, which TensorRT %d does not build: "
            "plan again with --target tensorrt-8.6" % major
        )


# --- weakly typed: constraints


def _names_of(layer):
    """What a layer may be called: its ONNX node (TensorRT 8.6 and newer keep it as metadata), then its own name."""
    names = []
    metadata = getattr(layer, "metadata", "") or ""
    marker = "[ONNX Layer: "
    start = metadata.find(marker)
    while start >= 0:
        end = metadata.find("]", start + len(marker))
        names.append(metadata[start + len(marker) : end])
        start = metadata.find(marker, end)
    return names


def match_constraints(layers, constraints):
    """Find the layers of every constraint.

    layers: [(metadata names, output names, layer name)]. Returns one list of layer positions a constraint: by the
    ONNX node's name in the metadata, and, for what has none there (LayerNormalization up to TensorRT 10.0), by an
    output tensor; only then by the layer's own name. Raises ValueError naming every constraint without a layer.
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
        positions = set()
        if constraint["node"]:
            positions.update(by_metadata.get(constraint["node"], ()))
        for output in constraint["outputs"]:
            positions.update(by_output.get(output, ()))
        if not positions:
            for name in (constraint["node"], "node_of_" + "".join(constraint["outputs"][:1])):
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


def _apply_constraints(network):
    trt = tensorrt()
    types = {"fp32": trt.float32, "fp16": trt.float16}
    if hasattr(trt, "bfloat16"):
        types["bf16"] = trt.bfloat16
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number).name for number in range(layer.num_outputs)]
        layers.append((_names_of(layer), outputs, layer.name))
    applied = 0
    floats = (trt.float32, trt.float16, getattr(trt, "bfloat16", trt.float16))
    for constraint, positions in zip(PLAN["constraints"], match_constraints(layers, PLAN["constraints"])):
        for position in positions:
            layer = network.get_layer(position)
            numbers = [n for n in range(layer.num_outputs) if layer.get_output(n).dtype in floats]
            if not numbers:
                continue  # a layer of integers or booleans has no precision to set
            layer.precision = types[constraint["precision"]]
            for number in numbers:
                layer.set_output_type(number, types[constraint["output_type"]])
            applied += 1
    kinds = "/".join(sorted({entry["precision"] for entry in PLAN["constraints"]})) or "nothing"
    print("build.py: %d constraints matched, %d layers set to %s" % (len(PLAN["constraints"]), applied, kinds))


# --- what Polygraphy calls


@func.extend(NetworkFromOnnxPath(os.path.join(HERE, "model.onnx"), **_network_options()))
def load_network(builder, network, parser):
    """The network of the plan: parsed, and, where typing is weak, with its constraints applied."""
    _check_version()
    if PLAN["typing"] == "strong":
        flag = tensorrt().NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if hasattr(network, "get_flag") and not network.get_flag(flag):
            raise SystemExit("build.py: the network is not strongly typed, so the types in model.onnx would not hold")
    else:
        _apply_constraints(network)
    for name in PLAN["interface"]["outputs"]:
        if name not in [network.get_output(n).name for n in range(network.num_outputs)]:
            raise SystemExit("build.py: the network has no output %r; model.onnx is not this plan's model" % name)


def _config_options():
    settings = PLAN["build"]
    profile = Profile()
    for name, shapes in PLAN["profiles"].items():
        profile.add(name, min=shapes["min"], opt=shapes["opt"], max=shapes["max"])
    options = {"tf32": settings["tf32"]}
    if PLAN["profiles"]:
        options["profiles"] = [profile]
    trt = tensorrt()
    if settings.get("workspace_bytes"):
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: settings["workspace_bytes"]}
    if settings.get("optimization_level") is not None:
        options["builder_optimization_level"] = settings["optimization_level"]
    if settings.get("version_compatible"):
        options["version_compatible"] = True
    if settings.get("hardware_compatible"):
        options["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    cache = os.path.join(HERE, settings.get("timing_cache") or "timing.cache")
    if os.path.exists(cache) and PLAN["target"] != "tensorrt-rtx":
        options["load_timing_cache"] = cache
    if PLAN["typing"] == "weak":
        options["fp16"] = PLAN["precision"] == "fp16"
        if PLAN["precision"] == "bf16":
            options["bf16"] = True
        options["precision_constraints"] = "obey"
    options["profiling_verbosity"] = trt.ProfilingVerbosity.DETAILED
    if PLAN["target"] == "tensorrt-rtx" and settings.get("compute_capabilities"):
        options.pop("tf32")
    return options


@func.extend(CreateConfig(**_config_options()))
def load_config(config):
    """The builder's settings of the plan."""
    _set_compute_capabilities(config)
    return config


def _set_compute_capabilities(config):
    """TensorRT-RTX builds for GPUs that are not there; without a GPU it must be told which."""
    wanted = os.environ.get("PLAN_COMPUTE_CAPABILITIES", "") or PLAN["build"].get("compute_capabilities", "")
    if not wanted or not hasattr(config, "num_compute_capabilities"):
        return
    trt = tensorrt()
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    config.num_compute_capabilities = len(names)
    for number, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name.strip()), number)


def load_plugins():
    import ctypes

    for library in PLAN["build"].get("plugins", []):
        path = library if os.path.isabs(library) else os.path.join(HERE, library)
        ctypes.CDLL(path if os.path.exists(path) else library, mode=ctypes.RTLD_GLOBAL)


load_plugins()


def main():
    parser = argparse.ArgumentParser(description="build the engine of this plan")
    parser.add_argument("-o", "--output", default=os.path.join(HERE, "model.engine"))
    parser.add_argument("--compute-capabilities", help="TensorRT-RTX: build for these GPUs, e.g. SM89,SM120")
    parser.add_argument("--verbose", action="store_true", help="the builder's whole log")
    arguments = parser.parse_args()
    if arguments.compute_capabilities:
        os.environ["PLAN_COMPUTE_CAPABILITIES"] = arguments.compute_capabilities
    if arguments.verbose:
        from polygraphy.logger import G_LOGGER

        G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
    cache = (
        None
        if PLAN["target"] == "tensorrt-rtx"
        else os.path.join(HERE, PLAN["build"].get("timing_cache") or "timing.cache")
    )
    engine = EngineBytesFromNetwork(load_network, config=load_config, save_timing_cache=cache)()
    temporary = arguments.output + ".part"
    with open(temporary, "wb") as file:
        file.write(engine)
    os.replace(temporary, arguments.output)
    print("build.py: wrote %s (%.1f MB)" % (arguments.output, len(bytes(engine)) / 1e6))
    return 0


if __name__ == "__main__":
    sys.exit(main())
