"""Whose fault is a wrong engine: the precision's or the builder's? Used by `verify.py --diagnose`.

The order matters, because each step excludes what the next one would be confused by:

1. An FP32 engine without TF32. If that is wrong too, precision is not the cause: the builder (or parser) is.
2. Where this TensorRT has debug tensors, the values inside the engine, compared with those inside the FP32 engine: the
   first one that differs. Debug tensors leave the fusions as they are; marking an output changes what is fused.
3. The same engine with the suspect fusions broken, by marking the tensors inside them as outputs. If that cures it, the
   fusion is a builder defect, and halving the marked set names it; if nothing does, it is the precision.

Written by precision-planner; imports nothing of it.
"""

import os

# onnxruntime 1.29 and newer report what they load unless this is set; your own setting wins
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import verify

WRONG_FP32 = 1e-3  # relative L2 of an output: FP32 without TF32 stays far below
DIVERGED = 0.05  # relative L2 of a tensor inside: FP16 stays below, garbage does not


# --- the reasoning, apart from TensorRT


def smallest(candidates, cures, builds):
    """The smallest part of `candidates` found to cure, by halving, and whether the budget allowed to finish.

    cures(part) builds with that part marked; at most `builds` calls.
    """
    part, finished = list(candidates), False
    while len(part) > 1:
        middle = len(part) // 2
        halves = (part[:middle], part[middle:])
        if builds < 2:
            break
        for half in halves:
            builds -= 1
            if cures(half):
                part = half
                break
        else:
            finished = True  # both halves are needed
            break
    return part, finished or len(part) == 1


def first_divergence(low, high):
    """(name, relative L2) of the first tensor, in the order of `low`, that is not what it is in FP32; None if none."""
    for name, value in low.items():
        if name not in high or high[name].shape != value.shape or not value.size:
            continue
        expected = np.asarray(high[name], np.float64)
        actual = np.asarray(value, np.float64)
        if not np.isfinite(expected).all():
            continue
        norm = np.linalg.norm(expected)
        error = np.linalg.norm(actual - expected) / norm if norm else np.linalg.norm(actual)
        if not error <= DIVERGED:
            return name, float(error)
    return None


def upstream(tensor, producers, inputs_of, good):
    """The tensors that `tensor` is computed from, back to those observed to be right, nearest first."""
    found, queue = [], [tensor]
    while queue:
        layer = producers.get(queue.pop(0))
        for name in inputs_of.get(layer, ()):
            if name not in found and name not in good and name in producers:
                found.append(name)
                queue.append(name)
    return found


def wrong_in_fp32(found):
    """Whether an FP32 engine's results are beyond what FP32 explains."""
    return any(metrics["nonfinite"] or not metrics["rel_l2"] <= WRONG_FP32 for _, _, metrics, _ in found)


# --- with TensorRT


def diagnose(fp32_model=None, builds=16):
    """Build up to `builds` engines and return the verdict as text."""
    import build

    if build.PLAN["typing"] == "strong":
        fp32_model = fp32_model or _fp32_model(build)
        if fp32_model is None:
            return (
                "diagnose: the FP32 model is needed to tell the builder from the precision: pass --fp32-model "
                "(the original model), or install the onnx package to widen model.onnx"
            )
    say("an FP32 engine without TF32 ...")
    reference, observed_high = _run(build, fp32_model or "model.onnx", low=False)
    if wrong_in_fp32(reference):
        return (
            "diagnose: BUILDER DEFECT (or parser): the FP32 engine without TF32 is wrong too, so the precision is "
            "not the cause. Report model, inputs and TensorRT version; another optimization level may avoid it"
            + known_defects(build.PLAN)
        )
    say("FP32 is right; observing the plan's engine ...")
    _, observed_low = _run(build, None)
    network = _structure(build)
    place = first_divergence(observed_low, observed_high)
    if place is not None:
        say("first value that differs: %s (relative L2 %.3g)" % place)
        good = set()
        for name in observed_low:
            if name == place[0]:
                break
            good.add(name)
        suspects = upstream(place[0], network["producers"], network["inputs"], good) or network["tensors"]
    else:
        say("no debug tensors here, or none differs: every tensor is suspect")
        suspects = network["tensors"]

    def cures(part):
        say("with %d tensors marked, which breaks the fusions around them ..." % len(part))
        return not verify.failed(_run(build, None, mark=part, observe=False)[0])

    where = " near %s" % place[0] if place else ""
    if not suspects or not cures(suspects):
        return (
            "diagnose: PRECISION%s: FP32 is right, and the engine stays wrong with its fusions broken. Plan again with "
            "these inputs (planner plan --inputs), or keep what computes that value in FP32" % where
        )
    part, finished = smallest(suspects, cures, builds - 4)
    return (
        "diagnose: BUILDER DEFECT: FP32 is right, and so is the planned precision once the fusion around %s is "
        "broken%s. Marking it as an output is a workaround; report model, inputs and TensorRT version"
        % (", ".join(part[:4]), "" if finished else " (the budget of builds ended the search early)")
    ) + known_defects(build.PLAN)


def known_defects(plan):
    """What the plan knows of defects that others met in such models, as further lines."""
    lines, seen = [], set()
    for entry in plan.get("known_defects") or []:
        if entry["key"] not in seen:
            seen.add(entry["key"])
            near = " -> ".join(entry["nodes"])
            lines.append("known: %s, near %s; %s (%s)" % (entry["title"], near, entry["breaker"], entry["reference"]))
    return "".join("\ndiagnose: " + line for line in lines)


def say(text):
    print("diagnose: " + text, flush=True)


def _run(build, model, low=True, mark=(), observe=True):
    """([(case, output, metrics, broken)], {tensor: value in the last case}) of a freshly built engine."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    builder, network, parser = build.load_network() if model is None else build.parse(model)
    tensors = {tensor.name: tensor for tensor in _float_tensors(build, network)}
    for name in mark:
        if name in tensors and not tensors[name].is_network_output:
            network.mark_output(tensors[name])
    debug = observe and _mark_debug(network, tensors)
    config = build.load_config(builder, network, low=low)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("diagnose: TensorRT built no engine; its log above says why")
    # the FP32 model may take other types than the planned one
    types = {tensor.name: np.dtype(build.tensorrt().nptype(tensor.dtype)) for tensor in _inputs(network)}
    del parser
    seen = {}
    with TrtRunner(EngineFromBytes(bytes(engine))) as runner:
        if debug:
            listener = _listener(build.tensorrt(), seen)
            runner.context.set_debug_listener(listener)
            runner.context.set_all_tensors_debug_state(True)
            if hasattr(runner.context, "unfused_tensors_debug_state"):
                runner.context.unfused_tensors_debug_state = True

        def infer(inputs):
            seen.clear()
            inputs = {name: np.asarray(value, types[name]) for name, value in inputs.items()}
            return runner.infer(inputs, copy_outputs_to_host=True)

        return verify.check(infer), dict(seen)


def _mark_debug(network, tensors):
    """Make the engine's values visible without changing its fusions, where this TensorRT can; whether it can."""
    if hasattr(network, "mark_unfused_tensors_as_debug_tensors"):
        return bool(network.mark_unfused_tensors_as_debug_tensors())
    if not hasattr(network, "mark_debug"):
        return False
    for tensor in tensors.values():
        network.mark_debug(tensor)
    return True


def _listener(trt, seen):
    from polygraphy import cuda

    class Listener(trt.IDebugListener):
        def __init__(self):
            trt.IDebugListener.__init__(self)

        def process_debug_tensor(self, addr, location, type, shape, name, stream):
            if type in (trt.float32, trt.float16):
                dtype = np.float32 if type == trt.float32 else np.float16
                view = cuda.DeviceView(addr, tuple(shape), np.dtype(dtype))
                cuda.wrapper().stream_synchronize(stream)
                seen[name] = np.array(view.numpy())
            return True

    return Listener()


def _inputs(network):
    return [network.get_input(number) for number in range(network.num_inputs)]


def _float_tensors(build, network):
    trt = build.tensorrt()
    floats = (trt.float32, trt.float16, getattr(trt, "bfloat16", trt.float16))
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.CONSTANT:
            continue
        for number in range(layer.num_outputs):
            tensor = layer.get_output(number)
            if tensor.dtype in floats and not tensor.is_shape_tensor:
                yield tensor


def _structure(build):
    """Who makes which tensor: {"tensors", "producers": tensor -> layer, "inputs": layer -> tensors}."""
    _, network, parser = build.load_network()
    tensors = [tensor.name for tensor in _float_tensors(build, network)]
    producers, inputs = {}, {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for number in range(layer.num_outputs):
            producers[layer.get_output(number).name] = index
        read = (layer.get_input(number) for number in range(layer.num_inputs))
        inputs[index] = [tensor.name for tensor in read if tensor is not None]
    del parser
    floats = set(tensors)
    return {
        "tensors": tensors,
        "producers": {name: layer for name, layer in producers.items() if name in floats},
        "inputs": inputs,
    }


def _fp32_model(build):
    """fp32.onnx of this folder, or model.onnx widened by the onnx package (its weights keep FP16's rounding)."""
    path = os.path.join(build.HERE, "fp32.onnx")
    if os.path.exists(path):
        return path
    try:
        import onnx
    except ImportError:
        return None
    import tempfile

    say("model.onnx is widened to FP32; pass the original as --fp32-model to take the weights' rounding out too")
    target = os.path.join(tempfile.mkdtemp(prefix="diagnose-"), "fp32.onnx")
    onnx.save(widened(onnx.load(os.path.join(build.HERE, "model.onnx"))), target, save_as_external_data=True)
    return target


def widened(model):
    """A typed model in FP32: every float16 and bfloat16 of tensors, Casts and declared types is float."""
    import onnx
    from onnx import numpy_helper

    low = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    float32 = onnx.TensorProto.FLOAT

    def tensor(proto):
        if proto.data_type in low:
            wide = numpy_helper.from_array(np.asarray(numpy_helper.to_array(proto), np.float32), proto.name)
            proto.CopyFrom(wide)

    def types(infos):
        for info in infos:
            if info.type.tensor_type.elem_type in low:
                info.type.tensor_type.elem_type = float32

    def nodes(items):
        for node in items:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype", "stash_type") and attribute.i in low:
                    attribute.i = float32
                if attribute.HasField("t"):
                    tensor(attribute.t)
                for proto in attribute.tensors:
                    tensor(proto)
                if attribute.HasField("g"):
                    graph(attribute.g)
                for body in attribute.graphs:
                    graph(body)

    def graph(body):
        for proto in body.initializer:
            tensor(proto)
        types(body.input)
        types(body.output)
        del body.value_info[:]
        nodes(body.node)

    graph(model.graph)
    for function in model.functions:
        nodes(function.node)
    return model
