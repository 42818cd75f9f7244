"""The trtexec command of a plan, and what trtexec cannot say of it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping

from precision_planner.plans.plan import PrecisionPlan, Profile
from precision_planner.targets import get_target


def trtexec_command(plan: PrecisionPlan) -> tuple[str, tuple[str, ...]]:
    """The command that builds a plan's model, and notes on what it leaves unsaid.

    Weak typing: trtexec applies a layer precision by exact layer name, and neither version says so when a name
    matches nothing; the build script is the way to be sure. Names that hold a comma or a colon cannot be written.

    Returns:
      (the command line, notes).
    """
    notes: list[str] = []
    spoken = get_target(plan.target).words
    words = [spoken.program, "--onnx=model.onnx", "--saveEngine=model.engine"]
    words += profile_flags(plan.profiles)
    if not plan.build.get("tf32", False):
        words.append("--noTF32")
    if plan.build.get("workspace_bytes"):
        words.append(f"--memPoolSize=workspace:{int(plan.build['workspace_bytes']) >> 20}")
    if plan.build.get("optimization_level") is not None:
        words.append(f"--builderOptimizationLevel={plan.build['optimization_level']}")
    if plan.build.get("version_compatible"):
        words.append("--versionCompatible")
    level = plan.build.get("hardware_compatible")
    if level:
        words.append(f"--hardwareCompatibilityLevel={'ampere+' if level is True else level}")
    if plan.build.get("timing_cache") and spoken.timing_cache:
        words.append(f"--timingCacheFile={plan.build['timing_cache']}")
    words += [f"--staticPlugins={library}" for library in plan.build.get("plugins") or ()]
    # so that planner inspect sees types and not only names
    words.append("--profilingVerbosity=detailed")
    if plan.typing == "strong":
        words += spoken.strong
        notes.append("The precision is in the types of model.onnx: never add --fp16, --bf16 or --best to it.")
        return shlex.join(words), tuple(notes)
    kept = {entry.precision for entry in plan.constraints} - {"fp32"}
    words += [f"--{kind}" for kind in sorted(kept | {plan.precision}, key=("fp16", "bf16").index)]
    if plan.constraints:
        words += _constraint_flags(plan, notes)
    return shlex.join(words), tuple(notes)


def profile_flags(profiles: Mapping[str, Profile]) -> list[str]:
    """--minShapes, --optShapes and --maxShapes; nothing for a model without dynamic inputs."""
    if not profiles:
        return []
    flags = []
    for flag, kind in (("--minShapes", "min"), ("--optShapes", "opt"), ("--maxShapes", "max")):
        shapes = (f"{name}:{'x'.join(map(str, getattr(profile, kind)))}" for name, profile in profiles.items())
        flags.append(f"{flag}={','.join(shapes)}")
    return flags


def _constraint_flags(plan: PrecisionPlan, notes: list[str]) -> list[str]:
    named = [entry for entry in plan.constraints if entry.node and not set(entry.node) & set(",:*")]
    left_out = len(plan.constraints) - len(named)
    if left_out:
        notes.append(
            f"{left_out} of {len(plan.constraints)} constraints are on nodes that trtexec cannot name (no name, or one "
            "with a comma, a colon or an asterisk): only build.py applies them."
        )
    ops = {node.node: node.op_type for node in plan.nodes}
    count = Counter(node.node for node in plan.nodes)
    shared = sorted({entry.node for entry in named if count[entry.node] > 1})
    if shared:
        notes.append(
            f"Several nodes are named {shared[0]!r}: TensorRT numbers the layers of all but the first, so an entry "
            "here reaches that one alone; build.py reaches them all."
        )
    normalizations = [entry.node for entry in named if ops.get(entry.node) == "LayerNormalization"]
    if normalizations:
        notes.append(
            f"Up to TensorRT 10.0 a LayerNormalization layer has no name, so {len(normalizations)} entries match "
            "nothing there and trtexec does not say so; such layers compute in FP32 by default."
        )
    notes.append("trtexec never reports an entry that matches nothing: build.py does.")
    notes.append(
        "Constants that reach a layer through a Shuffle of the parser's have no name to write here; build.py "
        "constrains these Shuffles with their layer."
    )
    precisions = ",".join(f"{entry.node}:{entry.precision}" for entry in named)
    types = ",".join(f"{entry.node}:{entry.output_type}" for entry in named)
    return ["--precisionConstraints=obey", f"--layerPrecisions={precisions}", f"--layerOutputTypes={types}"]
