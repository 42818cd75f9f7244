"""What a server's refusal means and what to do about it: Triton's words, in ours.

Each pattern was seen from tritonserver 2.51 or tritonclient; a test makes the server say it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of refusal.

    Attributes:
      kind: what to call it.
      pattern: of the server's (or the client's) own words.
      meaning: what is wrong and what to do; may use the pattern's groups, and model, server and timeout.
    """

    kind: str
    pattern: str
    meaning: str


REFUSALS = (
    Refusal(
        "half_by_json",
        r"(?P<type>FP16|BF16) data via JSON is not supported|(?P<other>BF16) inputs must be sent as binary",
        "{type} cannot go by JSON, which has no 16-bit floats: send and ask for binary data (tritonclient: "
        "binary_data=True, its default), or use gRPC",
    ),
    Refusal(
        "type",
        r"input '(?P<input>[^']+)' data-type is '(?P<sent>\w+)', but model '[^']+' expects '(?P<type>\w+)'",
        "input '{input}' was sent as {sent}, the model takes {type}: {hint}",
    ),
    Refusal(
        "type",
        r"got unexpected datatype (?P<sent>\w+) from numpy array, expected (?P<type>\w+)",
        "an array of {sent} was given for {type}: {hint}",
    ),
    Refusal(
        "shape",
        r"unexpected shape for input '(?P<input>[^']+)' for model '[^']+'\. Expected \[(?P<want>[^\]]*)\], got "
        r"\[(?P<got>[^\]]*)\]",
        "input '{input}' has shape [{got}], the model takes [{want}] (-1 is any size; with batching the first axis "
        "counts rows)",
    ),
    Refusal(
        "size",
        r"input byte size mismatch for input '(?P<input>[^']+)' for model '[^']+'\. Expected (?P<want>\d+), got "
        r"(?P<got>\d+)",
        "input '{input}' has {got} bytes where its shape and type need {want} (float32 values sent as FP16 are twice "
        "as many): convert the values, do not relabel them",
    ),
    Refusal(
        "batch",
        r"batch-size must be <= (?P<want>\d+)",
        "a request has more rows than max_batch_size, {want}, or lacks the batch axis: send [rows, ...] with fewer "
        "rows, or plan with larger --maxShapes",
    ),
    Refusal(
        "classification",
        r"class result not available for output due to unsupported type '(?P<type>\w+)'",
        "Triton's classification (class_count) does not work on {type} outputs: ask for the tensor and take the "
        "argmax, or plan with that output kept in FP32",
    ),
    Refusal(
        "unknown_tensor",
        r"unexpected inference (?P<kind>input|output) '(?P<input>[^']+)'",
        "the model has no {kind} '{input}'; {server}/v2/models/{model} lists what it has",
    ),
    Refusal(
        "missing_input",
        r"expected (?P<want>\d+) inputs but got (?P<got>\d+) inputs .*missing required input\(s\) \[?"
        r"(?P<input>[^\]]*)\]",
        "{got} inputs were sent, the model takes {want}; missing: {input}",
    ),
    Refusal(
        "not_ready",
        r"unknown model: '[^']*' (has no available versions|is not found)|is not ready",
        "the model is not ready: it is not in the repository, or did not load, and then the server's log says why",
    ),
    Refusal(
        "timeout",
        r"DEADLINE_EXCEEDED|timed out",
        "no answer within {timeout:g} s: give a larger --timeout, or look at the server's queue",
    ),
    Refusal(
        "wrong_port",
        r"Expected HTTP/|Parse error at offset|Socket closed",
        "that port does not speak {protocol}: by default HTTP is 8000, gRPC 8001 (--grpc) and 8002 metrics",
    ),
    Refusal(
        "no_server",
        r"StatusCode\.UNAVAILABLE|connection failed",
        "no server answers there: is it started, and is that its {protocol} port?",
    ),
)

_HALF_HINT = "convert with .astype(numpy.float16) (BF16: ml_dtypes.bfloat16); Triton converts nothing itself"


def explain(text: str, model: str, server: str, timeout_s: float = 0.0) -> str:
    """The refusal in one line: which model, what it means, what to do, and the server's own words.

    Args:
      text: what the server or the client library said.
      model: the model asked for.
      server: its address.
      timeout_s: the limit of the request.
    """
    plain = " ".join(text.split())
    found = find_refusal(plain)
    if found is None:
        return f"{server}, model '{model}': the server refused: {plain[:400]}"
    refusal, groups = found
    values: dict[str, object] = {name: value for name, value in groups.items() if value is not None}
    values.setdefault("type", values.get("other", "FP16"))
    values |= {"model": model, "server": server, "timeout": timeout_s, "protocol": server.partition(":")[0]}
    values["hint"] = _HALF_HINT if values["type"] in ("FP16", "BF16") else "send that type; Triton converts nothing"
    return f"{server}, model '{model}': {refusal.meaning.format(**values)} [{plain[:300]}]"


def find_refusal(text: str) -> tuple[Refusal, dict[str, str | None]] | None:
    """The first kind that the words fit, with the pattern's groups."""
    for refusal in REFUSALS:
        match = re.search(refusal.pattern, text, re.IGNORECASE)
        if match:
            return refusal, match.groupdict()
    return None
