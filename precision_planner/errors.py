"""What the user did wrong, as exceptions.

A `PlannerError` is a mistake the user can mend: its message is one line that says what is wrong, where, and
what to do about it. The command line prints that line and exits with 2. Anything else that escapes is a bug
of ours and exits with 3, so a bug must never be raised as a `PlannerError`.
"""

from __future__ import annotations

__all__ = [
    "CalibrationError",
    "ConversionError",
    "EngineError",
    "ExternalDataError",
    "InputsError",
    "InstallationError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "PlanError",
    "PlannerError",
    "RuleError",
    "SelectorError",
    "ServerError",
    "SurgeryError",
    "TargetError",
    "ToleranceError",
]


class PlannerError(Exception):
    """A mistake of the user's, or something missing on the machine; the message is one teaching line."""

    exit_code: int = 2


class ModelError(PlannerError):
    """The model is missing, broken, or not one that the planner can read."""


class ExternalDataError(ModelError):
    """An external weight file is missing, too short, or lies outside the model's folder."""


class InputsError(PlannerError):
    """The inputs given for the model are missing, misnamed, or of the wrong type or shape."""


class CalibrationError(PlannerError):
    """The FP32 reference itself is not finite on the given inputs, so no range can be measured."""


class OutputError(PlannerError):
    """An output exists already, is the input, or cannot be written."""


class SelectorError(PlannerError):
    """A selector, category, rule id or pattern kind matches nothing, or cannot be parsed."""


class RuleError(PlannerError):
    """A rule file is not valid; the message begins with `file:line:`."""


class ToleranceError(PlannerError):
    """A tolerance, metric or budget cannot be parsed, or names an output that the model has not."""


class ConversionError(PlannerError):
    """The conversion asked for cannot be done, or would convert nothing."""


class PlanError(PlannerError):
    """A plan is broken, of another schema version, or does not belong to this model."""


class ServerError(PlannerError):
    """An inference server cannot be reached, refused a request, or took too long."""


class SurgeryError(PlannerError):
    """The user's surgery script is missing, fails, or returns something that is not a model."""


class TargetError(PlannerError):
    """The build target is unknown or cannot express what the plan asks for."""


class EngineError(PlannerError):
    """An engine or exported layer information cannot be built or read."""


class InstallationError(PlannerError):
    """This installation of the planner is incomplete."""


class MissingExtraError(PlannerError):
    """A package that this command needs is not installed; the message has the pip line.

    Attributes:
      package: the import name of what is missing.
      extra: the extra of precision-planner that brings it.
    """

    def __init__(self, message: str, *, package: str, extra: str) -> None:
        super().__init__(message)
        self.package = package
        self.extra = extra
