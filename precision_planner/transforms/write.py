"""The graph surgery of a fusion: new nodes in place of old ones, and nothing left that nobody reads."""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from precision_planner.model import (
    GraphIndex,
    Model,
    Scope,
    array_payload,
    numpy_dtype,
    stored_tensor,
)
from precision_planner.model.edit import copied, set_items, set_nodes
from precision_planner.model.names import FreshNames
from precision_planner.operators import domain_of, is_arithmetic, row_of
from precision_planner.patterns import Match, NormRewrite, Operand
from precision_planner.transforms.naming import fused_name

_INLINE_BYTES = 1024


class Writer:
    """Collects the new nodes of one model and writes them all at once.

    Args:
      model: what to rewrite, its opset raised already.
      names: index of the model in which the matches were found, for the names of the nodes they replace.
    """

    def __init__(self, model: Model, names: GraphIndex) -> None:
        self.model = model
        self.proto = model.edit()
        self.index = GraphIndex(self.proto)
        self.before = names
        self.builder = model.weights.builder()
        self.values = FreshNames.of(self.proto)
        self.nodes = FreshNames(node.name for _, _, node in self.index.nodes())
        self.mapping: dict[str, str] = {}
        self._new: dict[tuple[str, ...], dict[int, list[NodeProto]]] = {}
        self._drop: dict[tuple[str, ...], set[int]] = {}
        self._constants: dict[tuple[tuple[str, ...], str, tuple[int, ...], str], str] = {}
        self._pending: dict[tuple[str, ...], list[NodeProto]] = {}
        self._unused: dict[tuple[str, ...], set[str]] = {}

    def write(self, match: Match) -> None:
        """Plan the nodes of one match."""
        rewrite = match.rewrite
        found = self.index.find(match.nodes[-1])
        if rewrite is None or found is None:
            raise ValueError(f"{match.anchor} cannot be written")
        scope, _ = found
        positions = [at for at in (self.index.find(node) for node in match.nodes) if at is not None]
        old = [scope.nodes[position] for _, position in positions]
        last = scope.producer(match.output)
        if last is None:
            raise ValueError(f"'{match.output}' has no producer")
        name = fused_name([node.name for node in old], rewrite.op_type, match.output, self.nodes)
        nodes = self._nodes(scope, rewrite, match.output, name)
        main = next(node for node in nodes if node.op_type == rewrite.op_type)
        _inherit(main, old)
        self._new.setdefault(scope.path, {})[last] = nodes
        self._drop.setdefault(scope.path, set()).update(position for _, position in positions)
        for node in match.nodes:
            self.mapping[self.before.display(node)] = name

    def _nodes(self, scope: Scope, rewrite: NormRewrite, output: str, name: str) -> list[NodeProto]:
        """[Transpose,] the op [, Transpose] [, Mul] [, Add]; the last one makes `output`."""
        nodes: list[NodeProto] = []
        prefix = name.rpartition("/")[0] + "/" if "/" in name else f"{name}_"
        stages: list[str] = []
        if not rewrite.trailing:
            stages.append("Transpose")
        if rewrite.scale_behind:
            stages.append("Mul")
        if rewrite.bias_behind:
            stages.append("Add")
        x = rewrite.x
        axis = rewrite.axes[0]
        perm: list[int] = []
        if not rewrite.trailing:
            rank = rewrite.rank or 0
            perm = [at for at in range(rank) if at - rank not in rewrite.axes]
            perm += [at + rank for at in rewrite.axes]
            axis = -len(rewrite.axes)
            x = self.values.fresh(f"{output}_channels_last")
            nodes.append(
                helper.make_node("Transpose", [rewrite.x], [x], self.nodes.fresh(f"{prefix}Transpose"), perm=perm)
            )
        scale = self._operand(scope, rewrite.scale, rewrite, nodes, prefix)
        inputs = [x, scale]
        if rewrite.bias is not None:
            inputs.append(self._operand(scope, rewrite.bias, rewrite, nodes, prefix))
        at = output if not stages else self.values.fresh(f"{output}_normalized")
        main = helper.make_node(
            rewrite.op_type, inputs, [at], name, axis=axis, epsilon=rewrite.epsilon, stash_type=int(TensorProto.FLOAT)
        )
        nodes.append(main)
        for number, stage in enumerate(stages):
            result = output if number == len(stages) - 1 else self.values.fresh(f"{output}_{stage.lower()}")
            label = self.nodes.fresh(f"{prefix}{stage}")
            if stage == "Transpose":
                back = [int(place) for place in np.argsort(perm)]
                nodes.append(helper.make_node("Transpose", [at], [result], label, perm=back))
            else:
                other = rewrite.scale_behind if stage == "Mul" else rewrite.bias_behind
                nodes.append(helper.make_node(stage, [at, other], [result], label))
            at = result
        return nodes

    def _operand(
        self, scope: Scope, operand: Operand | None, rewrite: NormRewrite, nodes: list[NodeProto], prefix: str
    ) -> str:
        """The name under which the fused node reads scale or bias, in the shape it needs."""
        if operand is None:
            dims = tuple(int(size) for size in rewrite.dims if size is not None)
            return self._ones(scope, dims, rewrite.elem_type or TensorProto.FLOAT)
        if not operand.reshape:
            return operand.value
        holder = self.index.resolve(scope, operand.value)
        tensor = None if holder is None else self._tensor(holder, operand.value)
        if tensor is not None and isinstance(scope.container, GraphProto):
            key = (scope.path, operand.value, operand.dims, "")
            if key not in self._constants:
                copy = copied(tensor)
                copy.name = self.values.fresh(f"{operand.value}_{'x'.join(map(str, operand.dims))}")
                del copy.dims[:]
                copy.dims.extend(operand.dims)
                scope.container.initializer.append(copy)
                self._constants[key] = copy.name
            return self._constants[key]
        shape = self._constant(scope, np.array(operand.dims, np.int64), f"{operand.value}_shape")
        result = self.values.fresh(f"{operand.value}_reshaped")
        nodes.append(
            helper.make_node("Reshape", [operand.value, shape], [result], self.nodes.fresh(f"{prefix}Reshape"))
        )
        return result

    @staticmethod
    def _tensor(holder: Scope, value: str) -> TensorProto | None:
        """The tensor of a constant that no caller can override."""
        if value in holder.initializers:
            return None if holder.is_overridable(value) else holder.initializers[value]
        node = holder.producer_node(value)
        if node is not None and node.op_type == "Constant":
            return next((a.t for a in node.attribute if a.name == "value" and not a.ref_attr_name), None)
        return None

    def _ones(self, scope: Scope, dims: tuple[int, ...], elem_type: int) -> str:
        key = (scope.path, "ones", dims, str(elem_type))
        if key not in self._constants:
            array = np.ones(dims, numpy_dtype(elem_type))
            self._constants[key] = self._constant(scope, array, f"ones_{'x'.join(map(str, dims))}")
        return self._constants[key]

    def _constant(self, scope: Scope, array: np.ndarray, base: str) -> str:
        name = self.values.fresh(base)
        tensor = numpy_helper.from_array(array, name)
        if array.nbytes >= _INLINE_BYTES:
            tensor = stored_tensor(name, array.shape, tensor.data_type, self.builder.add(array_payload(array)))
        if isinstance(scope.container, GraphProto):
            scope.container.initializer.append(tensor)
        else:
            node = helper.make_node("Constant", [], [name], name, value=TensorProto())
            node.attribute[0].t.CopyFrom(tensor)
            self._pending.setdefault(scope.path, []).append(node)
        return name

    # -- taking effect ----------------------------------------------------------------------------------------------

    def finish(self) -> tuple[Model, dict[str, str]]:
        """The rewritten model, and old names -> new names."""
        readers = self._readers()
        for path, replaced in self._new.items():
            for nodes in replaced.values():
                for node in nodes:
                    self._count(readers, self.index.by_path[path], node, 1)
        removed: dict[tuple[str, ...], set[int]] = {path: set(replaced) for path, replaced in self._new.items()}
        work = [(path, position) for path, positions in removed.items() for position in positions]
        while work:
            path, position = work.pop()
            scope = self.index.by_path[path]
            for holder, value in self._count(readers, scope, scope.nodes[position], -1):
                maker = holder.producer(value)
                if maker is None:
                    self._drop_initializer(holder, value)
                    continue
                node = holder.nodes[maker]
                may = maker in self._drop.get(holder.path, ()) or _is_glue(node)
                gone = removed.setdefault(holder.path, set())
                if may and maker not in gone and not any(readers[holder.path, name] for name in node.output if name):
                    gone.add(maker)
                    work.append((holder.path, maker))
        for path, names in self._unused.items():
            container = self.index.by_path[path].container
            if isinstance(container, GraphProto):
                _keep(container.initializer, lambda tensor, names=names: tensor.name not in names)
                _forget(container, names)
        for path in sorted({*removed, *self._new, *self._pending}, key=len, reverse=True):
            self._rebuild(self.index.by_path[path], removed.get(path, set()))
        return self.model.with_proto(self.proto, self.builder.build()), self.mapping

    def _readers(self) -> Counter[tuple[tuple[str, ...], str]]:
        """How often each value is read, by nodes, bodies and callers, under the scope that holds it."""
        readers: Counter[tuple[tuple[str, ...], str]] = Counter()
        for scope in self.index.scopes:
            for node in scope.nodes:
                self._count(readers, scope, node, 1)
            for value in scope.outputs:
                holder = self.index.resolve(scope, value)
                readers[(holder or scope).path, value] += 1
        return readers

    def _count(
        self, readers: Counter[tuple[tuple[str, ...], str]], scope: Scope, node: NodeProto, change: int
    ) -> list[tuple[Scope, str]]:
        """Count the readings of one node; returns the values that nothing reads now."""
        unread = []
        for value in node.input:
            holder = self.index.resolve(scope, value) if value else None
            if holder is not None:
                readers[holder.path, value] += change
                if readers[holder.path, value] == 0:
                    unread.append((holder, value))
        return unread

    def _drop_initializer(self, holder: Scope, value: str) -> None:
        if value not in holder.initializers or holder.is_input(value):
            return
        self._unused.setdefault(holder.path, set()).add(value)

    def _rebuild(self, scope: Scope, removed: set[int]) -> None:
        container = scope.container
        new = self._new.get(scope.path, {})
        nodes: list[NodeProto] = list(self._pending.get(scope.path, []))
        gone: set[str] = set()
        for position, node in enumerate(scope.nodes):
            if position in new:
                nodes += new[position]
            if position in removed:
                gone.update(name for name in node.output if name)
            else:
                nodes.append(node)
        gone -= {name for replaced in new.values() for node in replaced for name in node.output}
        set_nodes(container, nodes)
        _forget(container, gone)


def _is_glue(node: NodeProto) -> bool:
    """Nodes that may go with a match when nothing reads them any more: constants and what only reshapes them."""
    return not domain_of(node) and (node.op_type == "Constant" or row_of(node).blind or is_arithmetic(node))


def _forget(container: GraphProto | FunctionProto, gone: set[str]) -> None:
    """Drop the annotations of values that are gone."""
    if not gone:
        return
    _keep(container.value_info, lambda entry: entry.name not in gone)
    if isinstance(container, GraphProto):
        _keep(container.quantization_annotation, lambda entry: entry.tensor_name not in gone)


def _keep(entries, test) -> None:  # type: ignore[no-untyped-def]
    kept = [entry for entry in entries if test(entry)]
    if len(kept) < len(entries):
        set_items(entries, kept)


def _inherit(node: NodeProto, old: list[NodeProto]) -> None:
    """Give the new node the doc string and metadata of the nodes it replaces; the last node's word counts first."""
    seen = set()
    for source in reversed(old):
        if source.doc_string and not node.doc_string:
            node.doc_string = source.doc_string
        for entry in getattr(source, "metadata_props", ()):
            if entry.key not in seen:
                seen.add(entry.key)
                added = node.metadata_props.add()
                added.key, added.value = entry.key, entry.value
