"""What TensorRT 11 and TensorRT-RTX share: one parser. Seen in TensorRT-RTX's layers, which need no GPU; not run."""

from precision_planner.targets.lowering import Lowering
from precision_planner.targets.target import Attention, Islands, Sandwich

ISLANDS = Islands(taken=("MatMul", "Gemm", "Conv", "ConvTranspose"), despite_bias=("Conv", "ConvTranspose"))
SANDWICH = Sandwich(fp32_sums=True, weights_cost=1.07, attention_cost=1.30)
ATTENTION = Attention(operator=True, operator_upcast=True, head_sizes=(32, 256))

_LAYERS = "the layers of TensorRT-RTX"

LOWERING = (
    Lowering("ReduceL2", "squares_root", "fp32", f"{_LAYERS} 1.5 to 1.7.1; half in 1.4"),
    Lowering("ReduceSumSquare", "squares", "low", f"{_LAYERS} 1.4 to 1.7.1"),
    Lowering("ReduceLogSum", "sum_log", "low", "taken from TensorRT 10's parser"),
    Lowering("ReduceLogSumExp", "exp_sum_log", "low", f"{_LAYERS} 1.4 to 1.6.1; max-shifted in 1.7.1"),
    Lowering("LpNormalization", "lp_normalization", "low", f"{_LAYERS} 1.4 to 1.6.1"),
    Lowering("GlobalLpPool", "powers_root", "low", f"{_LAYERS} 1.4 to 1.6.1"),
    Lowering("LogSoftmax", "softmax_log", "low", f"{_LAYERS}: a softmax and a logarithm in half"),
    Lowering("CumSum", "running_sum", "low", "taken from TensorRT 10.6, where it was measured"),
)

SOURCES = {
    "bf16_opset": "the parser's errors: Conv, pooling and InstanceNormalization take BF16 from opset 22",
    "bf16_kernels": "TensorRT-RTX builds them; refused has what lacks them",
    "sums": "assumed, as measured on 10.6; NVIDIA/TensorRT-Model-Connect#790: the default permits FP16 accumulation",
    "tf32": "assumed, as measured on 10.6",
    "chains": "assumed: it was measured on 8.6 and 10.6 only, and a chain may be cut, so each step counts as stored",
    "weights": "strongly typed: constants are in the graph as its Casts made them",
    "islands": "the engines of TensorRT-RTX 1.4 to 1.7.1 hold half weights for them, also behind Reshape and "
    "Transpose, for Conv also with a bias; an Add of zero before the product keeps all of them (evidence/tensorrt106)",
    "sandwich": "TensorRT 11.3's notes, Torch-TensorRT's use_fp32_acc; costs as measured on 10.6",
    "attention": "the layers of TensorRT-RTX 1.7.1: one kernel for head sizes 32 to 256, up to 65,536 keys",
    "norm_beside_fp32": "the layers of TensorRT-RTX: a LayerNormalization is upcast inside",
    "warnings": "its log has no such line",
    "margin": "evidence/cuda/results.json: the worst row of typed graphs against its prediction",
    "avoid": "none known",
    "lowering": "each says its own",
}
