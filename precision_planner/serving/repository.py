"""A Triton model repository from a plan: the config, the versioned model, warm-up data, labels, a README."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from precision_planner.errors import OutputError, PlannerError
from precision_planner.model import Model
from precision_planner.serving.config import Serving, config_faults, config_text, make_config, parse_config
from precision_planner.serving.labels import Labels, read_labels
from precision_planner.serving.readme import readme
from precision_planner.serving.source import (
    PlanFolder,
    baseline_of,
    check_runnable,
    choose_platform,
    engine_interface,
    files_of,
    find_file,
    largest_batch,
    model_name,
    read_plan_folder,
    usual_batch,
)
from precision_planner.serving.warmup import Warmup, make_warmup

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What the user decides about serving; the rest follows from the plan.

    Attributes:
      name: of the model in Triton; '' takes the model's file name.
      platform: None takes the one of the plan's target.
      engine: None takes model.engine of the plan's folder.
      version: the folder's number; None takes the next one.
      max_batch: None takes the profile's largest; 0 serves without batching.
      preferred: None takes the size that the engine is tuned for, and the largest.
      queue_delay_us: how long the batcher may wait for more requests.
      batching: put requests together.
      instances: copies of the model per device.
      gpus: devices; empty leaves the choice to the server.
      cuda_graphs: capture CUDA graphs (TensorRT only).
      warmup: run golden cases before the model is ready.
      labels: `FILE` or `OUTPUT=FILE`, one label a line.
      baseline: an ONNX model or an engine to serve beside it, as NAME_baseline.
    """

    name: str = ""
    platform: str | None = None
    engine: Path | None = None
    version: int | None = None
    max_batch: int | None = None
    preferred: tuple[int, ...] | None = None
    queue_delay_us: int = 100
    batching: bool = True
    instances: int = 1
    gpus: tuple[int, ...] = ()
    cuda_graphs: bool = True
    warmup: bool = True
    labels: tuple[str, ...] = ()
    baseline: Path | None = None


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository, as it was written.

    Attributes:
      serving: how it is served.
      version: the number of its folder.
      files: what was written, relative to the repository.
      validated: whether a config that was there already was kept, and fits.
    """

    serving: Serving
    version: int
    files: tuple[str, ...]
    validated: bool = False


@dataclass(frozen=True)
class Repository:
    """What `write_repository` made.

    Attributes:
      folder: the repository.
      models: the plan's model, then the baseline.
      plugins: libraries that the server must load.
      warnings: what a user of it should know, a sentence each.
    """

    folder: Path
    models: tuple[ServedModel, ...]
    plugins: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "triton_repository",
            "folder": str(self.folder),
            "models": [
                {
                    "name": model.serving.name,
                    "platform": model.serving.platform,
                    "version": model.version,
                    "max_batch_size": model.serving.max_batch_size,
                    "validated": model.validated,
                    "inputs": _tensors(model.serving, "inputs"),
                    "outputs": _tensors(model.serving, "outputs"),
                    "files": list(model.files),
                }
                for model in self.models
            ],
            "plugins": list(self.plugins),
            "warnings": list(self.warnings),
        }


def _tensors(serving: Serving, kind: str) -> dict[str, Any]:
    batched = serving.max_batch_size > 0
    return {
        tensor.name: {"datatype": tensor.wire, "dims": list(tensor.dims(batched))}
        for tensor in getattr(serving.interface, kind)
    }


def write_repository(
    plan_folder: Path, repository: Path, options: ServingOptions | None = None, *, force: bool = False
) -> Repository:
    """Write a plan's model into a model repository, and a baseline beside it where one is given.

    A model that is there already keeps its config.pbtxt, which is held to the new model, and gets a further version.

    Args:
      plan_folder: what `planner plan` wrote (and `planner build` built in).
      repository: created where it does not exist; other models in it are left alone.
      options: see there.
      force: write config.pbtxt anew, and replace a version that is there.

    Raises:
      PlanError, TargetError: the folder holds no plan, or one that Triton cannot serve.
      OutputError: a file is missing or would be lost, or the config that is there does not fit.
    """
    options = options or ServingOptions()
    source = read_plan_folder(plan_folder)
    platform = choose_platform(source.plan, options.platform)
    path = find_file(source, platform, options.engine)
    if platform == "onnxruntime_onnx":
        check_runnable(Model.load(path), path)
    warnings: list[str] = []
    serving = _serving(source, platform, options, warnings)
    labels = read_labels(options.labels, serving.interface)
    warnings += labels.warnings
    serving = replace(serving, label_files={name: file for name, file in labels.config.items()})
    libraries = [Path(text) for text in source.plan.build.get("plugins") or ()] if platform == "tensorrt_plan" else []
    plugins = {library.name: library for library in libraries}
    jobs = [(serving, path, labels, plugins)]
    if options.baseline is not None:
        base_platform, base_interface = baseline_of(options.baseline, source)
        if base_platform == "tensorrt_plan" and platform == "tensorrt_plan":
            base_interface = engine_interface(source, base_interface)
        base = replace(
            serving,
            name=f"{serving.name}_baseline",
            platform=base_platform,
            interface=base_interface,
            graph_batches=serving.graph_batches if base_platform == "tensorrt_plan" else (),
            label_files={},
        )
        jobs.append((base, options.baseline, Labels(), {}))
    written = []
    for entry, file, model_labels, libraries_of in jobs:
        batches = sorted({1, *entry.preferred, entry.max_batch_size} - {0})
        cases = {name: inputs for name, (inputs, _) in source.golden.items()}
        warm = Warmup((), {})
        if options.warmup:
            warm = make_warmup(entry.interface, cases, batches, entry.max_batch_size > 0)
        entry = replace(entry, warmup=warm.samples)
        written.append(_write_model(repository, entry, file, model_labels, warm, libraries_of, options, force))
    if options.warmup and not source.golden:
        warnings.append("the plan has no golden cases, so the model is not warmed up; its first requests are slow")
    if source.plan.typing == "weak" and platform == "onnxruntime_onnx":
        warnings.append(
            f"a plan for {source.plan.target} keeps its graph in FP32 and says the types to the builder: onnxruntime "
            "serves FP32; plan with --target onnxruntime to serve FP16"
        )
    if any(tensor.wire == "FP16" for tensor in serving.interface.tensors):
        warnings.append(
            "FP16 inputs and outputs go by gRPC or by HTTP's binary data, never by JSON; Triton's Java client has no "
            "FP16: docs/clients/java/HalfFloat.java encodes and decodes it"
        )
    made = Repository(repository, tuple(written), tuple(f"{serving.name}/plugins/{name}" for name in plugins))
    found = replace(made, warnings=tuple(warnings))
    for model in found.models:
        (repository / model.serving.name / "README.md").write_text(_readme(found, model, source), encoding="utf-8")
    return found


def _serving(source: PlanFolder, platform: str, options: ServingOptions, warnings: list[str]) -> Serving:
    interface = source.interface
    if platform == "tensorrt_plan":
        interface = engine_interface(source, interface)
        if interface != source.interface:
            warnings.append("the engine takes INT32 where the model has INT64: clients must send INT32")
    largest = largest_batch(source)
    most = largest if options.max_batch is None else options.max_batch
    if most > largest and (source.plan.profiles or not largest):
        has = f"the plan's profile ends at {largest} rows" if largest else "the model has no batch axis"
        raise OutputError(f"--max-batch {most}: {has}; plan again with --maxShapes, or give less")
    usual = usual_batch(source)
    default = tuple(sorted({size for size in (usual, most) if 1 < size <= most}))
    preferred = default if options.preferred is None else options.preferred
    wrong = [size for size in preferred if not 1 <= size <= most]
    if wrong and most:
        raise OutputError(f"--preferred {wrong[0]} is not within 1 and the largest batch, {most}")
    graphs: tuple[int, ...] = ()
    shapes: dict[str, tuple[int, ...]] = {}
    if options.cuda_graphs and platform == "tensorrt_plan":
        graphs = tuple(sorted({1, *preferred})) if most else (0,)
        for tensor in interface.inputs:
            profile = source.plan.profiles.get(tensor.name)
            dims = tensor.dims(most > 0)
            usual_dims = dims if profile is None else profile.opt[1 if most else 0 :]
            shapes[tensor.name] = tuple(b if a == -1 else a for a, b in zip(dims, usual_dims, strict=True)) or (1,)
    return Serving(
        name=model_name(options.name or Path(str(source.plan.model.get("name", "model"))).stem),
        platform=platform,
        interface=interface,
        max_batch_size=most,
        preferred=tuple(preferred) if most else (),
        queue_delay_us=options.queue_delay_us,
        batching=options.batching,
        instances=options.instances,
        gpus=options.gpus,
        graph_batches=graphs,
        graph_shapes=shapes,
    )


def _write_model(
    repository: Path,
    serving: Serving,
    path: Path,
    labels: Labels,
    warm: Warmup,
    plugins: Mapping[str, Path],
    options: ServingOptions,
    force: bool,
) -> ServedModel:
    """Write one model's folder; its config last but whole, so that a server that polls never loads half of it."""
    folder = repository / serving.name
    config = folder / "config.pbtxt"
    keep = config.is_file() and not force
    if folder.exists() and not config.is_file() and any(folder.iterdir()) and not force:
        raise OutputError(f"{folder} exists and holds no config.pbtxt; give another --name, or --force")
    if keep:
        validate_config(config, serving, {**_label_lines(folder), **labels.lines})
    version = options.version or 1 + max(_versions(folder), default=0)
    place = folder / str(version)
    if place.exists() and not force:
        raise OutputError(f"{place} exists; give another --version, or --force to replace it")
    files: dict[str, Path | bytes] = {
        f"{version}/{name}": file for name, file in files_of(path, serving.platform).items()
    }
    if not keep:
        files |= {f"warmup/{name}": content for name, content in warm.files.items()}
        files["config.pbtxt"] = config_text(make_config(serving)).encode()
    files |= {name: "".join(f"{line}\n" for line in lines).encode() for name, lines in labels.lines.items()}
    for name, library in plugins.items():
        if not library.is_file():
            raise OutputError(f"the plan's plugin library {library} does not exist here; plan again with its path")
        files[f"plugins/{name}"] = library
    _install(files, folder, place)
    listed = [*files, "README.md"]
    return ServedModel(serving, version, tuple(f"{serving.name}/{name}" for name in listed), keep)


def _install(files: Mapping[str, Path | bytes], folder: Path, version: Path) -> None:
    """Copy everything beside the folder first, then move it in, the version's folder as a whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new.", dir=folder.parent))
        try:
            for name, content in files.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    target.write_bytes(content)
                else:
                    shutil.copyfile(content, target)
            shutil.rmtree(version, ignore_errors=True)
            for name in sorted(path.name for path in staging.iterdir()):
                if name == "config.pbtxt":
                    continue
                source, place = staging / name, folder / name
                if place.is_dir() and name != version.name:
                    shutil.rmtree(place)
                source.replace(place)
            if (staging / "config.pbtxt").exists():
                (staging / "config.pbtxt").replace(folder / "config.pbtxt")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another repository") from None


def validate_config(config: Path, serving: Serving, labels: Mapping[str, Sequence[str]]) -> None:
    """Hold a config that is there to the model; OutputError with every fault."""
    found = parse_config(config.read_text(encoding="utf-8"), str(config))
    faults = config_faults(found, serving, labels)
    if faults:
        raise OutputError(
            f"{config} does not fit the model: {'; '.join(faults)}; mend it, or give --force to write it anew"
        )


def _label_lines(folder: Path) -> dict[str, list[str]]:
    """The label files beside a config."""
    found = {}
    for path in folder.glob("*.txt"):
        try:
            found[path.name] = path.read_text(encoding="utf-8").splitlines()
        except ValueError as error:
            raise PlannerError(f"{path} is no text ({error}); labels are one a line, in UTF-8") from None
    return found


def _versions(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdigit()]


def _readme(repository: Repository, model: ServedModel, source: PlanFolder) -> str:
    baseline = next((other.serving.name for other in repository.models[1:]), "")
    return readme(
        model.serving,
        source.plan,
        version=model.version,
        repository=repository.folder.name,
        plugins=repository.plugins if model is repository.models[0] else (),
        baseline=baseline,
    )
