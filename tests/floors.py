"""The oldest and the newest packages that pyproject.toml allows, each in a fresh environment: `make floors`.

Every lower bound of the base and of the extras is installed as it stands (``>=1.21`` becomes ``==1.21``; pip takes
the newest patch of a bound of two numbers as its first release, 1.21.0), and beside that the newest of everything, on
every Python that is found. Then a smoke suite runs: all rules with their cases, and each command on a small model.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = """
import contextlib, io, os, sys, tempfile
import numpy as np, onnx, onnxruntime
from onnx import TensorProto as T, helper as h, numpy_helper as n
from precision_planner.cli.main import main
os.chdir(tempfile.mkdtemp())
r = np.random.default_rng(0)
nodes = [h.make_node("MatMul", ["x", "w"], ["m"], "mm"), h.make_node("ReduceMean", ["m"], ["mu"], axes=[-1]),
 h.make_node("Sub", ["m", "mu"], ["d"]), h.make_node("Mul", ["d", "d"], ["q"]),
 h.make_node("ReduceMean", ["q"], ["v"], axes=[-1]), h.make_node("Add", ["v", "e"], ["ve"]),
 h.make_node("Sqrt", ["ve"], ["s"]), h.make_node("Div", ["d", "s"], ["o"]), h.make_node("Softmax", ["o"], ["y"])]
weights = [n.from_array(r.normal(0, 200, (32, 32)).astype("f4"), "w"), n.from_array(np.float32(1e-5), "e")]
graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, ["B", 32])],
                     [h.make_tensor_value_info("y", T.FLOAT, ["B", 32])], weights)
onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), "m.onnx")
np.savez("in.npz", x=r.normal(0, 60, (4, 32)).astype("f4"))
commands = [["rules", "--test", sys.argv[1]], ["analyze", "m.onnx", "--html", "a.html"], ["rewrite", "m.onnx"],
 ["rewrite", "m.onnx", "--precision", "bf16"], ["plan", "m.onnx", "-o", "p", "--inputs", "in.npz"],
 ["plan", "m.onnx", "-o", "q", "--target", "tensorrt-8.6", "--inputs", "in.npz", "--tolerance", "rel_l2=0.01"],
 ["diff", "m.onnx", "p", "--inputs", "in.npz", "--layers", "--html", "d.html"], ["report", "p"],
 ["extract", "m.onnx", "--around", "mm", "-o", "e.onnx"], ["fp16", "65520"], ["rules", "LN001"]]
failed = []
for words in commands:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    if code:
        failed.append((words, code, out.getvalue()[-1500:]))
for words, code, text in failed:
    print("FAILED", *words, "->", code, text)
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "numpy", np.__version__, "python",
      sys.version.split()[0], "commands", len(commands), "failed", len(failed))
sys.exit(bool(failed))
"""


FURTHER = """
import contextlib, io, os, sys, tempfile
import PIL.Image, distributed, numpy as np, onnx, safetensors, tritonclient.grpc, tritonclient.http
from onnx import TensorProto as T, helper as h, numpy_helper as n
import precision_planner as pp
from precision_planner.cli.main import main
os.chdir(tempfile.mkdtemp())
weight = n.from_array(np.random.default_rng(0).normal(0, 0.1, (3, 8, 8, 3)).reshape(8, 3, 8, 3).astype("f4"), "w")
graph = h.make_graph([h.make_node("Conv", ["x", "w"], ["y"], "conv")], "g",
                     [h.make_tensor_value_info("x", T.FLOAT, [1, 3, 16, 16])],
                     [h.make_tensor_value_info("y", T.FLOAT, [1, 8, 14, 14])], [weight])
onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), "m.onnx")
os.mkdir("pictures")
PIL.Image.fromarray(np.zeros((16, 16, 3), "u1")).save("pictures/a.png")
failed = []
for words in (["analyze", "m.onnx", "--inputs", "pictures"], ["plan", "m.onnx", "-o", "p", "--target", "tensorrt-rtx"],
              ["build", "p"], ["triton", "repo", "p", "-o", "models"]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    if code:
        failed.append(words)
        print("FAILED", *words, "->", code, out.getvalue()[-1500:])
analysis = pp.analyze("m.onnx")
analysis.to_dataframe()
analysis.plot()
from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in ("tensorrt-rtx", "polygraphy", "tritonclient", "distributed", "pillow",
      "matplotlib", "pandas", "safetensors")), "failed", len(failed))
sys.exit(bool(failed))
"""
EXTRAS = ("rtx", "triton", "cluster", "images", "notebook", "demo")


def bounds(*extras: str) -> list[str]:
    """The requirements of the base and of extras; one that names extras of ours is left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [entry for extra in ("cpu", *extras) for entry in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *(entry for entry in wanted if not entry.startswith("precision-planner"))]


def floor(requirement: str) -> str:
    """``onnx>=1.21,<2`` as ``onnx==1.21``."""
    name, version = re.match(r"([\w.,\[\]-]+)>=([\w.]+)", requirement).groups()
    return f"{name}=={version}"


def interpreters() -> list[str]:
    """The Pythons of the versions that are promised, as far as they run here: on the path, or pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = []
    for minor in (11, 12, 13):
        on_path = shutil.which(f"python3.{minor}")
        kept = sorted(root.glob(f"versions/3.{minor}.*/bin/python"))
        for name in [*([on_path] if on_path else []), *map(str, kept)]:
            if subprocess.run([name, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
                found.append(name)
                break
    return found or [sys.executable]


def try_environment(python: str, requirements: list[str], suite: str = SMOKE) -> bool:
    """Install and run the smoke suite in an environment that is removed afterwards."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([python, "-m", "venv", place], check=True)
        pip = [f"{place}/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        if subprocess.run([*pip, *requirements]).returncode or subprocess.run([*pip, "--no-deps", ROOT]).returncode:
            print(f"FAILED to install under {python}: {' '.join(requirements)}")
            return False
        smoke = subprocess.run(
            [f"{place}/bin/python", "-c", suite, str(ROOT / "rules")], cwd=place, env={**os.environ, "PYTHONPATH": ""}
        )
        return smoke.returncode == 0


def main() -> int:
    """Floors under the oldest Python, the newest packages under each."""
    pythons = interpreters()
    oldest = [floor(requirement) for requirement in bounds()]
    further = [floor(requirement) for requirement in bounds(*EXTRAS)]
    tried = [try_environment(pythons[0], oldest), try_environment(pythons[0], further, FURTHER)]
    if "--floors-only" not in sys.argv:
        tried += [try_environment(python, bounds()) for python in pythons]
        tried.append(try_environment(pythons[0], bounds(*EXTRAS), FURTHER))
    return 0 if all(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
