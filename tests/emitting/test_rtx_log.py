"""What is kept of TensorRT-RTX's log, with a stand-in for its package: which messages, whose, and how they are told."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace

import pytest

from precision_planner.emitting import rtx

LISTING = "Layers:\nName: a+b_myl0_1, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], TacticName: t, " + (
    "StreamId: 0, Metadata: [ONNX Layer: q]"
)


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class Logger:
    """TensorRT's ILogger: its severities are attributes of the class."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(rtx, "_LOGGER", None)
    return SimpleNamespace(ILogger=Logger)


def test_everything_but_verbose_talk_is_kept_and_of_that_the_listing(package: SimpleNamespace) -> None:
    with rtx._capture_log(package) as log:
        for severity in Severity:
            log.logger.log(severity, f"{severity.name} said")
        log.logger.log(Severity.VERBOSE, LISTING)
        log.logger.log(Severity.VERBOSE, "there are Layers:\n in this")
    assert [name for name, _ in log.messages] == ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    assert log.errors() == ("INTERNAL_ERROR said", "ERROR said")
    assert log.warnings() == ("WARNING said",)
    kernels = log.kernels()
    assert kernels is not None
    assert [kernel.name for kernel in kernels] == ["a+b_myl0_1"]


def test_a_message_is_told_once_on_one_line_and_none_about_the_missing_gpu(package: SimpleNamespace) -> None:
    with rtx._capture_log(package) as log:
        for text in ("one\n  warning", "one warning", "another", f"x {rtx._NO_GPU[0]} y"):
            log.logger.log(Severity.WARNING, text)
    assert log.warnings() == ("one warning", "another")
    assert log.errors() == ()
    assert log.kernels() is None


def test_each_build_has_its_own_messages_from_the_one_logger(package: SimpleNamespace) -> None:
    with rtx._capture_log(package) as outer:
        outer.logger.log(Severity.INFO, "outer")
        with rtx._capture_log(package) as inner:
            assert inner.logger is outer.logger
            inner.logger.log(Severity.INFO, "inner")
        outer.logger.log(Severity.INFO, "outer again")
    outer.logger.log(Severity.ERROR, "nobody's")
    assert [text for _, text in outer.messages] == ["outer", "outer again"]
    assert [text for _, text in inner.messages] == ["inner"]
    assert outer.captured
    assert not rtx._Log(None).captured


def test_what_an_earlier_attempt_to_build_said_is_forgotten_and_the_parsers_words_are_not(
    package: SimpleNamespace,
) -> None:
    with rtx._capture_log(package) as log:
        log.logger.log(Severity.WARNING, "parser")
        log.forget_build()
        log.logger.log(Severity.ERROR, "first attempt")
        log.forget_build()
        log.logger.log(Severity.ERROR, "second attempt")
    assert (log.warnings(), log.errors()) == (("parser",), ("second attempt",))
