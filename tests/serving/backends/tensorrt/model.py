"""A python-based backend that stands in for Triton's `tensorrt` and `onnxruntime` backends, which need more than a CPU.

The "engine" is an ONNX file that onnxruntime runs. As TensorRT's backend does, it refuses a config whose tensors
differ from the engine's in name, type or dims, and an engine whose plugins were not loaded
(`--backend-config=tensorrt,plugins=a.so;b.so`). Runs in the server's environment (numpy < 2, no package of ours).
"""

import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

ORT_TYPES = {
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int8)": "TYPE_INT8",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(bool)": "TYPE_BOOL",
}


def check_tensors(kind, configured, engine, max_batch_size):
    """Raise for a tensor of the config that the engine has otherwise."""
    known = {value.name: value for value in engine}
    for entry in configured:
        name = entry["name"]
        if name not in known:
            raise pb_utils.TritonModelException("engine has no %s '%s'; it has %s" % (kind, name, sorted(known)))
        value = known.pop(name)
        if ORT_TYPES[value.type] != entry["data_type"]:
            raise pb_utils.TritonModelException(
                "%s '%s' is %s in the config, %s in the engine" % (kind, name, entry["data_type"], value.type)
            )
        shaped = "reshape" in entry and entry["reshape"] is not None and "shape" in entry["reshape"]
        dims = [int(size) for size in (entry["reshape"]["shape"] if shaped else entry["dims"])]
        dims = [-1, *dims] if max_batch_size > 0 else dims
        actual = [size if isinstance(size, int) else -1 for size in value.shape]
        if dims != actual:
            raise pb_utils.TritonModelException(
                "%s '%s' has dims %s in the config, %s in the engine" % (kind, name, dims, actual)
            )
    if known and kind == "input":
        raise pb_utils.TritonModelException("the config lacks the engine's %s" % sorted(known))


def check_plugins(path):
    """Raise for an engine with plugins whose libraries the server was not told to load."""
    with open(path, "rb") as file:
        if b"trt.plugins" not in file.read():
            return
    # a python backend does not see the configuration of another: the server's own command line has it
    with open("/proc/%d/cmdline" % os.getppid(), "rb") as file:
        words = file.read().decode().split("\0")
    given = [word.partition("plugins=")[2] for word in words if "tensorrt,plugins=" in word]
    libraries = [library for text in given for library in text.split(";")]
    if not libraries:
        raise pb_utils.TritonModelException("getPluginCreator could not find plugin: LayerNorm version: 1")
    for library in libraries:
        if not os.path.isfile(library):
            raise pb_utils.TritonModelException("unable to load shared library: %s" % library)


class TritonPythonModel:
    """Runs the file that Triton would hand to the real backend."""

    def initialize(self, args):
        """Load the engine and hold the config to it."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        default = "model.plan" if config.get("platform") == "tensorrt_plan" else "model.onnx"
        path = os.path.join(folder, config.get("default_model_filename") or default)
        check_plugins(path)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [entry["name"] for entry in config["output"]]
        self.types = {entry["name"]: entry["data_type"] for entry in config["input"]}
        size = int(config.get("max_batch_size", 0))
        check_tensors("input", config["input"], self.session.get_inputs(), size)
        check_tensors("output", config["output"], self.session.get_outputs(), size)

    def execute(self, requests):
        """Run the requests that the batcher put together, one by one."""
        responses = []
        for request in requests:
            given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.types}
            if "TYPE_BF16" in self.types.values():
                # numpy has no bfloat16: such an engine is a sequence of Identities, and the bytes go through
                echoed = [pb_utils.Tensor.from_dlpack(o, t.to_dlpack()) for o, t in zip(self.outputs, given.values())]
                responses.append(pb_utils.InferenceResponse(output_tensors=echoed))
                continue
            feed = {name: tensor.as_numpy() for name, tensor in given.items()}
            try:
                made = self.session.run(self.outputs, feed)
            except Exception as error:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
                continue
            tensors = [pb_utils.Tensor(name, np.asarray(array)) for name, array in zip(self.outputs, made)]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
