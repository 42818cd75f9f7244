#!/usr/bin/env python3
"""Run an engine twice, for a profiler: the first inference loads and warms, the second one is what counts.

    ncu --metrics gpu__time_duration.sum --clock-control none --csv python once.py ENGINE CASE/inputs.npz >NAME.ncu.csv

`kernels.py` reads the CSV. Runs under the Python that has tensorrt 8.6.0, polygraphy and numpy.
"""

import sys

import engine as measuring
import numpy as np
import tensorrt as trt
from polygraphy import cuda


def main():
    path, arrays = sys.argv[1], dict(np.load(sys.argv[2]))
    with open(path, "rb") as file:
        engine = trt.Runtime(measuring.Log()).deserialize_cuda_engine(file.read())
    context, stream, buffers = engine.create_execution_context(), cuda.Stream(), []
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    for name in sorted(names, key=lambda name: name not in inputs):  # outputs have no shape before the inputs do
        kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        if name in inputs:
            array = np.ascontiguousarray(arrays[name].astype(kind))
            context.set_input_shape(name, array.shape)
            buffers.append(cuda.DeviceArray(array.shape, kind).copy_from(array, stream))
        else:
            buffers.append(cuda.DeviceArray(tuple(context.get_tensor_shape(name)), kind))
        context.set_tensor_address(name, buffers[-1].ptr)
    for _ in range(2):
        context.execute_async_v3(stream.ptr)
        stream.synchronize()


if __name__ == "__main__":
    main()
