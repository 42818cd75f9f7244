"""What is left of ONNX: shapes, generators, sampling, control flow, signals, strings, ai.onnx.ml and training.

Source: the operators' definitions in onnx.defs; each column is run by tests/operators.
"""

from __future__ import annotations

from functools import partial

from precision_planner.operators.row import Operator, slots

_window = partial(Operator, generates=True, type_attribute="output_datatype", indices=slots(0))
_ml = partial(Operator, domain="ai.onnx.ml")
_training = partial(Operator, domain="ai.onnx.preview.training")

ROWS = (
    Operator("Shape", blind=True, exact=True, indifferent=slots(0)),
    Operator("Size", blind=True, exact=True, indifferent=slots(0)),
    Operator("Constant"),
    Operator("ConstantOfShape", generates=True, exact=True, shapes=slots(0)),
    Operator(
        "EyeLike", blind=True, generates=True, exact=True, indifferent=slots(0), type_attribute="dtype",
    ),
    Operator("Range", indices=slots(0, 1, 2), weights={0: "scalar", 1: "scalar", 2: "scalar"}),
    Operator("RandomNormal", generates=True, random=True, type_attribute="dtype"),
    Operator("RandomUniform", generates=True, random=True, type_attribute="dtype"),
    Operator("RandomNormalLike", blind=True, random=True, type_attribute="dtype"),
    Operator("RandomUniformLike", blind=True, random=True, type_attribute="dtype"),
    Operator("Multinomial", random=True),
    _window("BlackmanWindow"),
    _window("HammingWindow"),
    _window("HannWindow"),
    Operator("MelWeightMatrix", type_attribute="output_datatype", stays_wide=slots(0, 1, 2, 3, 4)),
    Operator("DFT", linear=True, indices=slots(1, 2)),
    Operator("STFT", linear=True, indices=slots(1, 3)),
    Operator("GridSample", linear=True, coordinates=slots(1)),
    Operator("AffineGrid", shapes=slots(1)),
    Operator("RoiAlign", linear=True, coordinates=slots(1), indices=slots(2)),
    Operator("NonMaxSuppression", indices=slots(2)),
    Operator("If", bodies=True),
    Operator("Loop", bodies=True, indices=slots(0)),
    Operator("Scan", bodies=True),
    Operator("SequenceMap", bodies=True, gives_container=True),
    Operator("ImageDecoder"),
    Operator("RegexFullMatch"),
    Operator("StringConcat"),
    Operator("StringNormalizer"),
    Operator("StringSplit"),
    Operator("TfIdfVectorizer"),
    _ml("ArrayFeatureExtractor", moves=slots(0), movement="lookup", exact=True, linear=True, indices=slots(1)),
    _ml("Binarizer", pointwise=True, exact=True),
    _ml("Imputer", pointwise=True),
    _ml("Scaler"),
    _ml("Normalizer", normalizes="lp"),
    _ml("CastMap"),
    _ml("CategoryMapper"),
    _ml("DictVectorizer"),
    _ml("FeatureVectorizer"),
    _ml("LabelEncoder"),
    _ml("LinearClassifier"),
    _ml("LinearRegressor"),
    _ml("OneHotEncoder"),
    _ml("SVMClassifier"),
    _ml("SVMRegressor"),
    _ml("TreeEnsemble"),
    _ml("TreeEnsembleClassifier"),
    _ml("TreeEnsembleRegressor"),
    _ml("ZipMap"),
    _training("Adagrad"),
    _training("Adam"),
    _training("Gradient"),
    _training("Momentum"),
    Operator("FlexAttention", domain="ai.onnx.preview", product="attention", factors=slots(0, 1, 2),
             scores=slots(0, 1), bodies=True),
)  # fmt: skip
