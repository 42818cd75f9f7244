"""What there is to look at in a model: patterns, nodes, weights, inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from precision_planner.model import FLOAT_TYPES, Scope, display_name, first_output
from precision_planner.patterns.selecting import glob_matches
from precision_planner.rules.facts.evidence import Subject
from precision_planner.rules.facts.model_facts import ModelFacts

__all__ = ["INPUT_KINDS", "TENSOR_ROLES", "MatchSpec", "Subjects"]

TENSOR_ROLES = ("any", "weight", "bias", "table", "scale", "mean", "variance", "scalar", "constant")
INPUT_KINDS = ("any", "float", "integer")


@dataclass(frozen=True, slots=True)
class MatchSpec:
    """What a rule looks at: one kind of subject, and which of them.

    Attributes:
      subject: "pattern", "node", "tensor" or "input".
      names: pattern kinds, op types, tensor roles or input kinds, by subject.
      form: for patterns "decomposed", "native" or "" for both.
      domain: for nodes, the operator domain.
      globs: display names; none means all.
    """

    subject: str
    names: tuple[str, ...]
    form: str = ""
    domain: str = ""
    globs: tuple[str, ...] = ()


class Subjects:
    """The subjects of one model, made once and shared by all rules, so that facts are looked up once.

    Args:
      facts: the model.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self._world = facts
        self._patterns: dict[str, list[Subject]] | None = None
        self._nodes: dict[str, list[Subject]] | None = None
        self._tensors: list[Subject] | None = None

    def select(self, spec: MatchSpec) -> Iterator[Subject]:
        """The subjects that a rule's `match` selects, in graph order."""
        match spec.subject:
            case "pattern":
                found = self._of_pattern(spec)
            case "node":
                found = self._of_op(spec)
            case "tensor":
                found = self._of_tensor(spec)
            case _:
                found = self._inputs(spec)
        for subject in found:
            if not spec.globs or any(glob_matches(subject.name, glob) for glob in spec.globs):
                yield subject

    def _of_pattern(self, spec: MatchSpec) -> Iterator[Subject]:
        if self._patterns is None:
            self._patterns = {}
            index = self._world.source.index
            for match in self._world.source.matches:
                scope = index.by_path[match.scope]
                subject = Subject("pattern", scope, index.display(match.anchor), match=match)
                self._patterns.setdefault(match.kind, []).append(subject)
        for kind in spec.names:
            for subject in self._patterns.get(kind, []):
                assert subject.match is not None
                if not spec.form or subject.match.form == spec.form:
                    yield subject

    def _of_op(self, spec: MatchSpec) -> Iterator[Subject]:
        if self._nodes is None:
            self._nodes = {}
            for scope, position, node in self._world.source.index.nodes():
                subject = Subject("node", scope, display_name(node), position, node)
                self._nodes.setdefault(node.op_type, []).append(subject)
        for op_type in spec.names:
            for subject in self._nodes.get(op_type, []):
                assert subject.node is not None
                domain = "" if subject.node.domain == "ai.onnx" else subject.node.domain
                if domain == spec.domain:
                    yield subject

    def _of_tensor(self, spec: MatchSpec) -> Iterator[Subject]:
        if self._tensors is None:
            self._tensors = [tensor for scope in self._world.source.index.scopes for tensor in _tensors(scope)]
        for subject in self._tensors:
            if "any" in spec.names or not self._world.tensor_roles(subject).isdisjoint(spec.names):
                yield subject

    def _inputs(self, spec: MatchSpec) -> Iterator[Subject]:
        scope = self._world.source.index.main
        for value in scope.inputs:
            if value in scope.initializers:
                continue
            is_float = self._world.source.types.of(scope, value).elem_type in FLOAT_TYPES
            if "any" in spec.names or ("float" if is_float else "integer") in spec.names:
                yield Subject("input", scope, value, value=value)


def _tensors(scope: Scope) -> Iterator[Subject]:
    """The float weights of a scope: initializers, and what Constant nodes hold."""
    for name, tensor in scope.initializers.items():
        if tensor.data_type in FLOAT_TYPES:
            yield Subject("tensor", scope, name, value=name, tensor=tensor)
    for position, node in enumerate(scope.nodes):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        for attribute in node.attribute:
            output = first_output(node)
            if attribute.name == "value" and attribute.t.data_type in FLOAT_TYPES:
                yield Subject("tensor", scope, output, position, node, value=output, tensor=attribute.t)
            elif attribute.name == "value_float":
                scalar = TensorProto(name=output, data_type=TensorProto.FLOAT)
                yield Subject("tensor", scope, output, position, node, value=output, tensor=scalar)
            elif attribute.name == "value_floats":
                listed = TensorProto(name=output, data_type=TensorProto.FLOAT, dims=[len(attribute.floats)])
                yield Subject("tensor", scope, output, position, node, value=output, tensor=listed)
