"""Layer and RMS normalization written out in elementary nodes: recognised, then proven condition by condition."""

from __future__ import annotations

from onnx import TensorProto

from precision_planner.model import FLOAT_TYPES, type_name
from precision_planner.patterns.match import Match, NormRewrite
from precision_planner.patterns.normalization_terms import Near, Nodes, Terms, Variance
from precision_planner.patterns.normalized_outputs import End, NormalizedOutput, normalized_outputs
from precision_planner.patterns.variances import NO_EPS, find_variance
from precision_planner.patterns.view import View, axes_text

_KIND = {"layer": "layer_normalization", "rms": "rms_normalization"}
RMS_OPSET = 23
"""The first opset with RMSNormalization."""


def find_decomposed(terms: Terms) -> list[Match]:
    """Every decomposed layer or RMS normalization of a scope, near misses included."""
    view, matches = terms.view, []
    arguments: dict[str, list[int]] = {}
    for position, node in enumerate(view.scope.nodes):
        if node.domain not in ("", "ai.onnx") or not node.input or not node.output:
            continue
        if node.op_type == "Sqrt" or (
            node.op_type == "Pow" and len(node.input) == 2 and view.scalar(node.input[1]) in (0.5, -0.5)
        ):
            arguments.setdefault(node.input[0], []).append(position)
    for argument, roots in arguments.items():
        variance = find_variance(terms, argument)
        if isinstance(variance, Near):
            matches += _near_variance(terms, variance, roots)
        elif variance is not None:
            matches += _heads(terms, variance, argument, roots)
    return matches


def _near_variance(terms: Terms, near: Near, roots: list[int]) -> list[Match]:
    """A root over something that is nearly a variance plus eps."""
    view, reason = terms.view, near.reason
    positions = near.nodes | set(roots)
    if reason == NO_EPS:
        for use in view.scope.consumers(view.scope.nodes[roots[-1]].output[0])[:8]:
            node = view.standard(use.position)
            if node is None:
                continue
            if node.op_type in ("Add", "Max", "Clip"):
                positions |= {use.position}
                reason = f"eps is applied after the root, by {view.name(use.position)}"
    return [_near(view, _KIND[near.kind], positions, reason, view.scope.nodes[max(positions)].output[0])]


def _near(view: View, kind: str, nodes: Nodes, reason: str, output: str, x: str = "") -> Match:
    return Match(
        kind,
        "decomposed",
        view.scope.path,
        view.ids(nodes),
        {"x": x, "scale": "", "bias": ""},
        output,
        proven=False,
        reason=reason,
    )


def _heads(terms: Terms, variance: Variance, argument: str, roots: list[int]) -> list[Match]:
    view = terms.view
    found = normalized_outputs(terms, variance, argument, roots)
    sound = [normalized for normalized in found if normalized.ends]
    inside = (
        frozenset().union(*(end.nodes for normalized in sound for end in normalized.ends)) if sound else frozenset()
    )
    inside |= _between(view, inside)
    matches = [_match(view, variance, normalized, inside) for normalized in sound]
    if sound:
        return matches
    kind = _KIND[variance.kind]
    for normalized in found[:1]:
        positions = normalized.nodes | set(roots)
        output = view.scope.nodes[max(positions)].output[0]
        return [_near(view, kind, positions, normalized.reason, output, normalized.x)]
    if variance.kind == "rms":
        return []  # a root mean square that nothing is divided by
    positions = variance.nodes | set(roots)
    reason = "no node divides x - mean by the root"
    return [_near(view, kind, positions, reason, view.scope.nodes[roots[-1]].output[0], variance.x)]


def _match(view: View, variance: Variance, normalized: NormalizedOutput, inside: Nodes) -> Match:
    """A proven normalization; fusable if one of its ends, the farthest first, fits one node's types and shapes."""
    kind = _KIND[variance.kind]
    reason = _structure_reason(view, variance, normalized, inside)
    end, rewrite = normalized.ends[-1], None
    if not reason:
        for candidate in reversed(normalized.ends):
            result = _rewrite(view, variance, normalized, candidate)
            if isinstance(result, NormRewrite):
                end, rewrite = candidate, result
                break
            reason = result
    else:
        end = next((e for e in reversed(normalized.ends) if _has_fit(e)), normalized.ends[0])
    fusable = rewrite is not None
    if rewrite is not None:
        reason = _kind_reason(view, kind, rewrite)
        fusable = not reason
    attributes = {
        "axes": variance.axes,
        "epsilon": variance.epsilon,
        "stash_type": TensorProto.FLOAT,
        "channels_first": rewrite is not None and not rewrite.trailing,
    }
    nodes = end.nodes | _x_casts(view, rewrite.x if rewrite else normalized.x, end.nodes)
    return Match(
        kind,
        "decomposed",
        view.scope.path,
        view.ids(nodes),
        {"x": rewrite.x if rewrite else normalized.x, "scale": end.scale, "bias": end.bias},
        end.value,
        attributes=attributes,
        fusable=fusable,
        reason=reason,
        rewrite=rewrite,
    )


def _between(view: View, nodes: Nodes) -> Nodes:
    """Identities and Casts that only carry a value from one of the nodes to another."""
    found: set[int] = set()
    for position in nodes:
        for value in view.scope.nodes[position].output:
            for use in view.scope.consumers(value)[:16]:
                path: set[int] = set()
                at = use.position
                while at not in nodes and len(path) < 8:
                    output = view.scope.nodes[at].output[0]
                    reader = view.sole_consumer(output) if view.path(output)[:1] == (at,) else None
                    if reader is None:
                        break
                    path.add(at)
                    at = reader
                else:
                    found |= path
    return frozenset(found)


def _has_fit(end: End) -> bool:
    return all(fit is None or fit.operand is not None for fit in (end.scale_fit, end.bias_fit))


def _x_casts(view: View, x: str, nodes: Nodes) -> Nodes:
    """The Casts between x and the nodes that read it, where nothing else reads them."""
    found: set[int] = set()
    readers = [name for position in nodes for name in view.scope.nodes[position].input if name]
    for name in readers:
        for position in view.path(name):
            node = view.scope.nodes[position]
            if node.output[0] == x:
                break
            if view.root(x) != view.root(node.output[0]):
                break
            if view.outside_reader(node.output[0], nodes | found):
                continue
            found.add(position)
    return frozenset(found)


def _structure_reason(view: View, variance: Variance, normalized: NormalizedOutput, inside: Nodes) -> str:
    if any(axis >= 0 for axis in variance.axes):
        return f"{axes_text(variance.axes)} of a value of unknown rank"
    core = normalized.ends[0]
    for position in sorted(core.nodes):
        for output in view.scope.nodes[position].output:
            if output and output != core.value:
                reader = view.outside_reader(output, inside)
                if reader:
                    return f"{_term_name(view, variance, position)} is also read by {reader}"
    for end in normalized.ends:
        for fit in (end.scale_fit, end.bias_fit):
            if fit is not None and fit.fatal:
                return fit.reason
    return ""


def _term_name(view: View, variance: Variance, position: int) -> str:
    if variance.mean is not None and position in variance.mean.nodes:
        return "mean"
    return f"'{view.scope.nodes[position].output[0]}' of {view.name(position)}"


def _kind_reason(view: View, kind: str, rewrite: NormRewrite) -> str:
    if not rewrite.trailing:
        return (
            f"{axes_text(rewrite.axes)} of {rewrite.rank} is not trailing (channels first): "
            "fused only when asked, through a pair of Transposes"
        )
    if kind == "rms_normalization" and view.opset < RMS_OPSET:
        return f"RMSNormalization needs opset {RMS_OPSET}, the model has {view.opset}"
    return ""


def _rewrite(view: View, variance: Variance, normalized: NormalizedOutput, end: End) -> NormRewrite | str:
    """How the normalization up to `end` is written as one node, or the condition that fails."""
    elem = view.elem(end.value)
    x = _typed(view, normalized.x, elem, end)
    if isinstance(x, Near):
        return x.reason
    if elem == 0:
        elem = view.elem(x)
    if elem and elem not in FLOAT_TYPES:
        return f"x is {type_name(elem)}"
    if elem == TensorProto.DOUBLE:
        return "x is double, and a fused node takes its statistics in float"
    rank = view.rank(x)
    axes = variance.axes
    if rank is None and axes != tuple(range(-len(axes), 0)):
        return f"{axes_text(axes)} of a value of unknown rank"
    scale, bias, scale_behind, bias_behind = None, None, "", ""
    if end.scale_fit is not None:
        scale = end.scale_fit.operand
        typed = _same_type(view, end.scale, elem)
        if scale is None or not typed:
            scale, scale_behind = None, end.scale
        if not typed:
            return f"gamma is {type_name(view.elem(end.scale))} where x is {type_name(elem)}"
    if end.bias_fit is not None:
        bias = end.bias_fit.operand
        if not _same_type(view, end.bias, elem):
            return f"beta is {type_name(view.elem(end.bias))} where x is {type_name(elem)}"
        if bias is None or scale_behind:
            bias, bias_behind = None, end.bias
    op_type = "LayerNormalization"
    if variance.kind == "rms":
        op_type = "RMSNormalization"
        if bias is not None:
            bias, bias_behind = None, end.bias
    shape = view.shape(x) or view.shape(view.root(x))
    known: list[int | None] = [None] * len(axes)
    if shape is not None and len(shape) >= -min(axes, default=0):  # annotations may contradict the axes
        sizes = [shape[axis] for axis in axes]
        known = [size if isinstance(size, int) else None for size in sizes]
    if scale is not None:
        known = list(scale.dims)
    if any(size is None for size in known):
        why = next((fit.reason for fit in (end.scale_fit,) if fit is not None and fit.operand is None), "")
        return why or f"the size of {axes_text(axes)} is unknown, so that no scale can be written"
    return NormRewrite(
        op_type, x, elem, axes, tuple(known), scale, bias, variance.epsilon, scale_behind, bias_behind, rank
    )


def _same_type(view: View, value: str, elem: int) -> bool:
    return elem == 0 or view.elem(value) in (0, elem)


def _typed(view: View, x: str, elem: int, end: End) -> str | Near:
    """x in the type of the end: the nearest value of that type on its way through Casts."""
    if elem == 0:
        casts = any(view.scope.nodes[at].op_type in ("Cast", "CastLike") for at in end.nodes)
        return Near("types inside the function are unknown and Casts are among the nodes") if casts else x
    for name in view.chain(x):
        if view.elem(name) == elem:
            return name
    have = view.elem(x)
    return Near(f"x is {type_name(have) if have else 'of unknown type'} where the result is {type_name(elem)}")
