"""Find the first value of a graph that TensorRT gets wrong, by engines of the graph cut off at a value.

An engine that also marks its inner values as outputs fuses other layers than the whole one does; a graph that ends at
the value keeps everything before it as it was. Runs under Python 3.8 and newer with onnx alone; imports
nothing of the planner.
"""

import math

import onnx
from onnx import TensorProto, helper

VIEWS = {
    "Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze", "Slice", "Flatten", "Expand", "Split", "Cast", "Gather",
}  # fmt: skip
"""They compute nothing: an engine cut there is the one cut before."""
SMALLEST = 64
"""Elements of the smallest value worth an engine."""
POINTS = 4
"""Engines a round: some are built at once."""
EXPECTED = 1e-3
"""Relative error of FP16 that needs no explanation."""
DEPTHS = (8, 2, 4, 16, 1, 32)
LATER = 22
"""Priority of the engines that hold a part in FP32: after the models that matter most, see jobs.py."""
KEPT = {
    "means": r".*/ReduceMean(_\d+)?",
    "squares": r".*/Pow",
    "centered": r".*norm.*/Sub",
    "root": r".*norm.*/(Add|Sqrt|Div)",
    "affine": r".*norm.*/(Mul|Add_1)",
    "norms": r".*norm.*/(ReduceMean|Sub|Pow|ReduceMean_1|Add|Sqrt|Div|Mul|Add_1)",
    "convolutions": r".*/Conv",
    "products": r".*/MatMul(_\d+)?",
}
"""Parts held in FP32, one an engine: regular expressions on layer names."""


def values(model, shapes):
    """Where a graph may be cut: its computed FP32 values, in order, without views and without means that are ~0.

    A list of [value, numbers of the values before it that it is computed from].
    """
    centered = {name for node in model.graph.node if node.op_type == "Sub" for name in node.input}
    nearest = {value.name: set() for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if not nearest.keys() & set(node.input):
            continue  # a constant
        sources = set().union(*(nearest.get(name, ()) for name in node.input))
        is_mean = node.op_type == "ReduceMean" and node.output[0] in centered
        for name in node.output:
            nearest[name] = sources
            if is_large(shapes, name) and node.op_type not in VIEWS and not is_mean:
                nearest[name] = {len(found)}
                found.append([name, sorted(sources)])
    return found


def is_large(shapes, name):
    """Whether a value is FP32 (the others have no shape here) and no scalar."""
    return name in shapes and math.prod(shapes[name]) >= SMALLEST


def cut(model, outputs, shapes, depth=None, begin=()):
    """(the part of a graph that computes some values, names of its inputs).

    With a depth it begins that many computing nodes earlier, with the FP32 values there as inputs; it also begins at
    the values `begin`. `shapes` holds those of every computed FP32 value of the graph.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    own = {value.name: value for value in model.graph.input}
    distance, todo, inputs = {name: 0 for name in outputs}, list(outputs), []
    while todo:
        name = todo.pop(0)
        node = makers.get(name)
        if node is None or name in inputs:
            continue
        is_float = is_large(shapes, name)
        if name in begin or (depth is not None and is_float and distance[name] >= depth):
            inputs.append(name)
            continue
        step = int(node.op_type not in VIEWS and is_float)
        for source in node.input:
            if source and distance.get(source, math.inf) > distance[name] + step:
                distance[source] = distance[name] + step
                todo.append(source)
    # again, now that it is known where it begins: a value may have been met on a long way before a short one
    needed, todo = set(), list(outputs)
    while todo:
        name = todo.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in makers and name not in inputs:
            todo.extend(source for source in makers[name].input if source)
    inputs = [name for name in inputs if name in needed]
    nodes = [n for n in model.graph.node if set(n.output) & needed - set(inputs)]
    found = [value for name, value in own.items() if name in needed]
    found += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in inputs]
    graph = helper.make_graph(
        nodes,
        "cut",
        found,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    result = helper.make_model(graph, opset_imports=model.opset_import)
    result.ir_version = model.ir_version
    onnx.checker.check_model(result)
    return result, [value.name for value in found]


class Search:
    """A search in one graph at one builder optimization level; the orchestrator builds the jobs it wants."""

    def __init__(self, case, level, full):
        self.case, self.level, self.full = case, level, full
        self.prefix = "%s.L%d" % (case, level)
        self.names, self.errors, self.asked = None, {}, set()
        self.low, self.high, self.state = -1, None, "waiting"

    def begin(self, cuts, error):
        """The whole engine's error decides whether there is anything to find; `cuts` by `values`."""
        self.bound = math.sqrt(EXPECTED * min(error, 1.0))
        self.names, self.sources = [name for name, _ in cuts], [sources for _, sources in cuts]
        self.narrow(len(cuts) - 1)
        self.state = "searching" if error > 0.01 else "nothing to find"

    def narrow(self, high):
        """Look only at what the wrong value `high` is computed from: other branches prove nothing."""
        self.high, self.before, todo = high, set(), [high]
        while todo:
            new = [i for i in self.sources[todo.pop()] if i not in self.before]
            self.before.update(new)
            todo.extend(new)

    def job(self, suffix, index, **more):
        job = {"id": "%s.%s" % (self.prefix, suffix), "case": self.case, "kind": "fp16", "priority": 0}
        job.update(level=self.level, search=self.prefix, cut=self.names[index], index=index)
        return dict(job, **more)

    def learn(self, index, error):
        """The error of a prefix; None where it was not built."""
        self.errors[index] = error
        known = {i: e for i, e in self.errors.items() if e is not None}
        while True:
            bad = [i for i in self.before if known.get(i, 0.0) > self.bound]
            if not bad:
                break
            self.narrow(min(bad))
        self.low = max((i for i in self.before if i in known), default=-1)

    def gives_up(self, job):
        """Whether a queued prefix has come to prove nothing; it may be asked for again."""
        if self.state != "searching" or "plain" not in job or job["index"] in self.open():
            return False
        self.asked.discard(job["index"])
        return True

    def open(self):
        """The values that the next engines may be cut at: between right and wrong, at last the sources of the wrong."""
        inner = sorted(i for i in self.before if self.low < i and i not in self.errors)
        return inner or [i for i in self.sources[self.high] if i not in self.errors]

    def wanted(self):
        """The jobs of the next round, once the last one's are done; at the end of a search those that explain."""
        if self.state != "searching":
            return []
        inner = self.open()
        if any(i in self.asked for i in inner):
            return []
        if inner:
            count = min(POINTS, len(inner))
            picked = sorted({inner[(2 * n + 1) * len(inner) // (2 * count)] for n in range(count)})
            self.asked.update(picked)
            return [self.job("cut-%d" % i, i, plain=True) for i in picked]
        self.state = "found"
        last = self.high
        jobs = [self.job("depth-%d" % depth, last, depth=depth) for depth in DEPTHS]
        jobs += [self.job("fp32", last, kind="fp32"), self.job("half", last, kind="half")]
        jobs += [dict(self.job("level-%d" % level, last), level=level) for level in (0, 1, 3) if level != self.level]
        return jobs + [self.job("keep-%s" % part, last, keep=pattern, priority=LATER) for part, pattern in KEPT.items()]

    def line(self):
        """What was found, for the results."""
        found = {
            "search": self.prefix,
            "state": self.state,
            "values": len(self.names or []),
            "errors": [[self.names[i], i, e] for i, e in sorted(self.errors.items())],
        }
        if self.state == "found":
            good = [self.names[i] for i in self.sources[self.high]]
            found.update(first_bad=self.names[self.high], computed_from=good)
        return found
