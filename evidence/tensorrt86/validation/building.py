"""Build one engine of the validation, and say what the builder made of it.

Runs under Python 3.8 to 3.10 with tensorrt 8.6, numpy and onnx; imports nothing of the planner.
"""

import json
import os
import re


def _floats(layer, trt):
    """Numbers of the outputs whose type can be set."""
    numbers = []
    for number in range(layer.num_outputs):
        tensor = layer.get_output(number)
        if tensor.dtype in (trt.float32, trt.float16) and (tensor.is_execution_tensor or not tensor.is_shape_tensor):
            numbers.append(number)
    return numbers


def _constrain(layer, numbers, dtype):
    layer.precision = dtype
    for number in numbers:
        layer.set_output_type(number, dtype)


def load_cache(config, path):
    """Take up what earlier builds of this model have timed: faster, and the same kernels where nothing changed."""
    earlier = b""
    if os.path.exists(path):
        with open(path, "rb") as file:
            earlier = file.read()
    config.set_timing_cache(config.create_timing_cache(earlier), False)


def save_cache(config, path):
    """Leave it for the next build; whole or not at all."""
    part = "%s.%d" % (path, os.getpid())
    with open(part, "wb") as file:
        file.write(bytes(config.get_timing_cache().serialize()))
    os.replace(part, path)


def adjuster(job, relaxed, mode, note):
    """What a job changes in a network before it is built; `note` is filled."""
    import tensorrt as trt

    skipped = {trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST, trt.LayerType.FILL}

    def adjust(network, config):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.avg_timing_iterations = 1  # engines share the GPU with others being built: a mean is no better
        if "level" in job:
            config.builder_optimization_level = job["level"]
        layers = [network.get_layer(number) for number in range(network.num_layers)]
        note["layers"] = len(layers)
        flags = {"obey": "OBEY_PRECISION_CONSTRAINTS", "prefer": "PREFER_PRECISION_CONSTRAINTS"}
        if job["kind"] == "half":
            config.set_flag(getattr(trt.BuilderFlag, flags[mode]))
            forced = 0
            for layer in layers:
                numbers = _floats(layer, trt)
                if numbers and layer.type not in skipped and layer.name not in relaxed:
                    _constrain(layer, numbers, trt.float16)
                    forced += 1
            note.update(forced=forced, relaxed=sorted(relaxed), mode=mode)
        if "keep" in job:
            config.set_flag(getattr(trt.BuilderFlag, flags[mode]))
            kept = []
            for layer in layers:
                numbers = _floats(layer, trt)
                if numbers and layer.type not in skipped and re.fullmatch(job["keep"], layer.name):
                    _constrain(layer, numbers, trt.float32)
                    kept.append(layer.name)
            note.update(kept=len(kept), kept_first=kept[:6], mode=mode)

    return adjust


def named_in(text, names):
    """The layers that an error message names."""
    return {
        name for name in names if name and re.search(r"(?<![\w/.])" + re.escape(name) + r"(?![\w/]|\.[\w/.])", text)
    }


def build_engine(job, path, arrays, cache, log, note):
    """Engine bytes; a forced layer that has no FP16 kernel is set free, and at last obey becomes prefer.

    `log` has the path of its file; `cache` is the path of the timing cache.
    """
    import engine

    kind = "fp32" if job["kind"] == "fp32" else "fp16"
    relaxed, mode, names, configs = set(), "obey", [], []
    for attempt in range(5):
        start = os.path.getsize(log.path)
        adjust = adjuster(job, relaxed, mode, note)

        def watched(network, config, adjust=adjust):
            names[:] = [network.get_layer(number).name for number in range(network.num_layers)]
            load_cache(config, cache)
            configs.append(config)
            adjust(network, config)

        try:
            plan = engine.build_plain(path, kind, arrays, log, watched)
            save_cache(configs[-1], cache)
            return plan
        except SystemExit as error:
            with open(log.path, encoding="utf-8", errors="replace") as file:
                file.seek(start)
                said = [line.strip() for line in file if line.startswith(("[ERROR]", "[INTERNAL_ERROR]"))]
            note.setdefault("refusals", []).append((said or [str(error)])[:3])
            if (job["kind"] != "half" and "keep" not in job) or mode == "prefer" or "cannot parse" in str(error):
                raise
            found = named_in(" ".join(said), names) - relaxed if job["kind"] == "half" else set()
            relaxed |= found
            if not found or attempt == 3:
                mode = "prefer"
    raise SystemExit("not built")


def describe(plan, log):
    """(counts of the engine's layers by the type they compute or store, the inspector's layers in short)."""
    import tensorrt as trt

    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text, strict=False).get("Layers", [])  # names hold control characters
    counts = {"half": 0, "float": 0, "mixed": 0, "other": 0, "myelin": 0}
    short = []
    for layer in layers:
        if not isinstance(layer, dict):
            short.append({"name": str(layer)})
            continue
        types = {
            side: sorted({t.get("Format/Datatype", "?") for t in layer.get(side, [])}) for side in ("Inputs", "Outputs")
        }
        text = " ".join(types["Inputs"] + types["Outputs"]).lower()
        half, full = "half" in text or "fp16" in text, "float" in text or "fp32" in text
        counts["mixed" if half and full else "half" if half else "float" if full else "other"] += 1
        counts["myelin"] += "ForeignNode" in layer.get("Name", "") or "myelin" in layer.get("LayerType", "").lower()
        short.append(
            {
                "name": layer.get("Name", "")[:300],
                "type": layer.get("LayerType"),
                "tactic": layer.get("TacticName", layer.get("TacticValue")),
                "in": types["Inputs"],
                "out": types["Outputs"],
                "dims": [t.get("Dimensions") for t in layer.get("Outputs", [])],
            }
        )
    return counts, short
