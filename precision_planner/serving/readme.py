"""The README of a served model: what it takes and gives, how to start, check and call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from precision_planner.plans import PrecisionPlan
from precision_planner.serving.config import Serving
from precision_planner.serving.tensors import HALF, ServedTensor
from precision_planner.serving.warmup import NUMPY_TYPES


def readme(
    serving: Serving, plan: PrecisionPlan, *, version: int, repository: str, plugins: Sequence[str], baseline: str
) -> str:
    """The page as Markdown.

    Args:
      serving: the model.
      plan: where it comes from.
      version: the number of its folder.
      repository: the repository's folder, as the server is started with it.
      plugins: libraries that the server must load, relative to the repository.
      baseline: the name of the model that it is compared with, '' for none.
    """
    from jinja2 import Environment, StrictUndefined

    text = resources.files("precision_planner.serving").joinpath("templates", "README.md.jinja").read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update(numpy_name=_numpy_name, identifier=_identifier)
    page = environment.from_string(text).render(
        serving=serving,
        plan=plan,
        version=version,
        repository=repository,
        plugins=[f"{repository}/{plugin}" for plugin in plugins],
        baseline=baseline,
        batched=serving.max_batch_size > 0,
        shapes={tensor.name: _sample_shape(serving, tensor) for tensor in serving.interface.inputs},
        half=[tensor.name for tensor in serving.interface.tensors if tensor.wire in HALF],
    )
    return page + "\n"


def _sample_shape(serving: Serving, tensor: ServedTensor) -> list[int]:
    """A shape that the model takes: one row of the first warm-up request."""
    batched = serving.max_batch_size > 0
    dims = tensor.dims(batched)
    if -1 in dims and serving.warmup:
        dims = serving.warmup[0].files[tensor.name][1]
    return [*([1] if batched else []), *(max(size, 1) for size in dims)]


def _numpy_name(wire: str) -> str:
    names = {"BF16": "ml_dtypes.bfloat16", "BOOL": "np.bool_", "BYTES": "np.object_"}
    return names.get(wire) or f"np.{NUMPY_TYPES[wire].name}"


def _identifier(name: str) -> str:
    plain = re.sub(r"\W", "_", name)
    return plain if plain.isidentifier() else f"output_{plain}"
