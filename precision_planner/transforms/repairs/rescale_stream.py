"""Scale an overflowing stream down by a power of two where it is written, and take that back where it is read.

FP16's relative precision is the same at every scale, so a residual sum at 260,000 loses nothing at 16,250, and nothing
has to run in FP32. Every value of the stream is held multiplied by 2^-k: the weights and biases that write into it are
scaled, the normalizations that read it get their epsilon times 2^-2k, other readers a weight times 2^k or one Mul. k is
the smallest with which the largest value measured leaves the headroom asked for.

In float32 this is exact to the last bit: a power of two changes no fraction, sums and products round alike. Only what
leaves the normal range, below 2^-126 after scaling, is not; epsilons are kept from that by refusing.

It does not give more bits than FP16 has: of a channel at 120,000 the last one is 64 at any scale, and a normalization
that takes the mean of the row spreads that over channels near 1. FP32 keeps those bits; a plan that misses its
tolerance after this repair is made without it.

A weight is scaled if it is as good in FP16 afterwards, channel by channel. Where small values would be lost, the
product is scaled by a Mul instead, or, if the product itself is what overflows, the activation that goes into it.

Cases: 1. one long pre-norm stream, all its sums in one power; 2. a post-norm sum, the other summand through one Mul;
3. a projection or convolution alone, its readers compensated.
"""

from __future__ import annotations

import math
from dataclasses import replace

from precision_planner.model.edit import Edit
from precision_planner.numerics.formats import FP16
from precision_planner.operators import row_of
from precision_planner.transforms.repairs.homogeneity import Treatment, is_gemm, is_native_norm
from precision_planner.transforms.repairs.powers import keeps_fp16, scaled_scalar
from precision_planner.transforms.repairs.site import Site
from precision_planner.transforms.repairs.stream import Stream
from precision_planner.transforms.repairs.stream_edit import StreamWriter

__all__ = ["MAX_POWER", "plan"]

MAX_POWER = 24
"""2^-24 times the largest value that then fits leaves 16,384: past that ordinary values would be subnormal."""
_SMALL = 4096
"""Constants of so many elements are copied without a thought."""


def plan(site: Site) -> Edit | str:
    """Plan the rescaling of the stream through the outputs of the site's nodes.

    Parameters: headroom (default 4): largest finite value / largest value afterwards; power (default 0): k itself,
    0 takes the smallest that gives the headroom on what was measured (`Site.amax`).
    """
    if site.scope.kind != "main":
        return "it lies in a nested body or a local function, where no value is measured"
    seeds = [output for place in map(site.place, site.nodes) if place for output in place[0].nodes[place[1]].output[:1]]
    planned = _plan(site, seeds, through=True)
    # what a product of the stream makes of itself is no reason to leave the stream as it is
    return _plan(site, seeds, through=False) if isinstance(planned, str) else planned


def _plan(site: Site, seeds: list[str], through: bool) -> Edit | str:
    headroom = float(site.parameters.get("headroom", 4.0))
    stream = Stream(site, headroom, through)
    refusal = stream.grow(seeds)
    if refusal:
        return refusal
    power = int(site.parameters.get("power", 0)) or _power(stream, seeds, headroom)
    if isinstance(power, str):
        return power
    settled = {}
    for position in sorted(stream.treatments):
        treatment = _settle(stream, position, power)
        if isinstance(treatment, str):
            return treatment
        settled[position] = treatment
    return StreamWriter(stream, settled, power).edit()


def _power(stream: Stream, seeds: list[str], headroom: float) -> int | str:
    """The smallest k, or why there is none."""
    limit = FP16.max_finite / headroom
    if not any(stream.amax(seed) for seed in seeds):
        return f"{', '.join(seeds)} was not measured"
    if not any(stream.amax(seed) > limit for seed in seeds):
        return f"{seeds[0]} reaches {max(map(stream.amax, seeds)):.4g}: it is in range"
    amax = max(stream.amax(value) for value in stream.held())
    if not math.isfinite(amax):
        return f"{seeds[0]} is not finite in FP32 either"
    power = max(0, math.ceil(math.log2(amax / limit)))
    while math.ldexp(amax, -power) > limit:  # log2 rounds
        power += 1
    if power > MAX_POWER:
        return f"the stream reaches {amax:.4g}: ordinary values beside it would leave FP16 at the other end"
    return power


def _settle(stream: Stream, position: int, power: int) -> Treatment | str:
    """Decide between weight and Mul, now that the power is known."""
    treatment = stream.treatments[position]
    node = stream.scope.nodes[position]
    for name, degree in treatment.attributes.items():
        value = next((attribute.f for attribute in node.attribute if attribute.name == name), 1e-5)
        if scaled_scalar(value, -power * degree) is None:
            return f"the {name} {value:.4g} of {node.name or node.op_type} would leave float32's normal range"
    if treatment.role == "writer":
        return _settle_writer(stream, position, treatment, power)
    if treatment.role == "reader" and treatment.weight >= 0:
        degree = treatment.gives[0]
        if _takes(stream, position, treatment.weight, power * degree, None):
            constants = {treatment.weight: -degree}
            needs = {slot: need for slot, need in treatment.needs.items() if slot < 2}
            return replace(treatment, needs=needs, constants=constants, gives={}, offers={})
    scale = treatment.constants.get(1, 0) if node.op_type == "BatchNormalization" else 0
    if scale and not _takes(stream, position, 1, -power * scale, None):
        return replace(treatment, needs={}, constants={}, gives={}, offers=treatment.offers)
    return treatment


def _settle_writer(stream: Stream, position: int, treatment: Treatment, power: int) -> Treatment:
    """By the weight; where it would suffer by a Mul behind; by a Mul before where what is behind overflows."""
    node = stream.scope.nodes[position]
    sign = -1 if node.op_type == "Div" and treatment.weight == 1 else 1
    wide = stream.is_wide(node.output[0])
    extra: dict[int, int] = {}  # what is added behind the product: bias of a Gemm or Conv, beta of a normalization
    if is_gemm(node) or is_native_norm(node):
        bias = Treatment()
        bias.take(stream, node, 2, 1)
        extra = {**bias.constants, **bias.needs}
    constant = {slot: 1 for slot in extra if stream.is_constant(node.input[slot])}
    needed = {slot: 1 for slot in extra if slot not in constant}
    if treatment.weight >= 0 and (wide or not _is_shared(stream, position, treatment.weight)):
        axis = _channel_axis(stream, position, treatment.weight)
        if _takes(stream, position, treatment.weight, -sign * power, axis):
            constants = {**treatment.constants, treatment.weight: sign, **constant}
            return replace(treatment, needs={**treatment.needs, **needed}, constants=constants, gives={0: 1}, offers={})
    factor = 0 if treatment.weight != 0 else 1
    if not wide or is_native_norm(node) or row_of(node).movement == "lookup" or (node.op_type == "Div" and factor):
        return treatment
    needs = {**treatment.needs, **needed, factor: treatment.needs.get(factor, 0) + 1}
    return replace(treatment, needs=needs, constants={**treatment.constants, **constant}, gives={0: 1}, offers={})


def _takes(stream: Stream, position: int, slot: int, power: int, axis: int | None) -> bool:
    """Whether a constant is as good in FP16 times 2^power; asked once a constant and power."""
    name = stream.constant(stream.scope.nodes[position].input[slot])
    key = ("keeps_fp16", name, power, axis)
    if key not in stream.site.memo:
        array = stream.site.array(name)
        stream.site.memo[key] = array is not None and keeps_fp16(array, axis, power)
    return bool(stream.site.memo[key])


def _channel_axis(stream: Stream, position: int, slot: int) -> int | None:
    """The axis of a weight that its output channels lie on; None: every element is a channel of its own."""
    node = stream.scope.nodes[position]
    transposed = any(a.name == ("transB" if slot else "transA") and a.i for a in node.attribute)
    match node.op_type:
        case "MatMul":
            return -1 if slot else -2
        case "Gemm":
            return -1 if bool(slot) != transposed else -2
        case "Conv" | "Gather":
            return 0
        case "ConvTranspose":
            return 1
    return None


def _is_shared(stream: Stream, position: int, slot: int) -> bool:
    """Whether a large constant has readers outside the stream's writers, so that scaling it means a copy."""
    value = stream.scope.nodes[position].input[slot]
    array = stream.site.array(value)
    if array is None or array.size <= _SMALL:
        return False
    treatments = stream.treatments
    readers = [treatments.get(use.position) for use in stream.scope.consumers(value)]
    return value in stream.scope.captures or any(each is None or each.role != "writer" for each in readers)
