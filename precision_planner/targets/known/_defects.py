"""Defects of TensorRT's builders and parsers that others met, and some of both runtimes that we did."""

from precision_planner.targets.defects import Defect

_ISSUES = "https://github.com/NVIDIA/TensorRT/issues"

TENSORRT = (
    Defect(
        key="mha-sm120",
        title="a fused 16-bit attention gives wrong values on consumer Blackwell (sm_120)",
        operators=("Softmax", "MatMul"),
        symptom="no error; scores of a ViT detector fall from 0.93 to 0.05 in FP16 and BF16, FP32 is exact",
        breaker="break the fusion: keep the attention's Softmax and Q K^T in FP32 (--keep-fp32), or mark the scores as "
        "an output",
        reference=f"{_ISSUES}/4837",
        since=(10,),
        platforms=("sm_120",),
        low=True,
    ),
    Defect(
        key="strided-shortcut",
        title="a fused convolution with a residual Add reads a part of a later Concat as if it were dense",
        operators=("Split", "Add", "Concat"),
        symptom="no error; -0.46 became 7.73, a YOLO's mAP50 0.70 became 0.46",
        breaker="build at a lower --builderOptimizationLevel, or keep the Add in FP32 (--keep-fp32)",
        reference=f"{_ISSUES}/4854",
        since=(11,),
        low=True,
    ),
    Defect(
        key="detr-11.1",
        title="detectors with deformable attention come out wrong in every precision",
        operators=("GridSample",),
        symptom="no error; scores 0.2 and boxes 600 pixels off, in FP32 too; 10.13 is right; not reduced to one node",
        breaker="compare with the FP32 engine first (verify.py --diagnose); build with TensorRT 10.13",
        reference=f"{_ISSUES}/4813",
        since=(11,),
    ),
    Defect(
        key="if-transpose-resize",
        title="what an If gives is read wrongly by a Resize behind a Transpose, where shapes are dynamic",
        operators=("If", "Transpose", "Resize"),
        symptom="no error; wrong values on 11.1 and 11.2",
        breaker="compare the engine with onnxruntime for each branch (verify.py); the report knows no cure",
        reference=f"{_ISSUES}/4846",
        since=(11,),
        dynamic=True,
    ),
    Defect(
        key="segformer-batch",
        title="SegFormer's attention, whose keys a strided convolution shortens, is wrong for a batch above 1",
        operators=("LayerNormalization", "Conv", "LayerNormalization", "MatMul"),
        symptom="no error; right for one image, off by orders of magnitude for two, in FP32 too, on 10.11 and 11.1; "
        "not reduced to one node",
        breaker="build for a batch of 1, or compare an engine of several with onnxruntime first (verify.py); a lower "
        "--builderOptimizationLevel was seen not to help",
        reference=f"{_ISSUES}/4853",
        since=(10,),
    ),
    Defect(
        key="lse-axes",
        title="ReduceLogSumExp loses axes that are an input (opset 18) and sums over every axis",
        operators=("ReduceLogSumExp",),
        symptom="an output of one element a tensor, in every precision; rule LE001 writes it out",
        breaker="give the axes as an attribute (opset 17), or write it as ReduceMax, Sub, Exp, ReduceSum, Log, Add",
        reference="https://github.com/onnx/onnx-tensorrt/blob/10.1-GA/onnxOpImporters.cpp",
        since=(10,),
        until=(11,),
        inputs_over=1,
    ),
)

ONNXRUNTIME = (
    Defect(
        key="layernorm-look-alike",
        title="onnxruntime's default optimizations take it for a LayerNormalization, which it is not",
        operators=(),
        symptom="no error; another answer than with its optimizations off, on every provider",
        breaker='load it with disabled_optimizers=["LayerNormFusionL1", "LayerNormFusionL2"], or with '
        "graph_optimization_level ORT_DISABLE_ALL",
        reference="https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/layer_norm_fusion.cc",
        runtimes=("onnxruntime",),
        look_alike=("layer_normalization", ("exponent is", "the operands of Sub are swapped")),
    ),
)
"""Measured with 1.31 and 1.32: exponents 3 and 4, and mean - x, at every level above none."""
