"""The `planner` program: the command group and its exit codes.

Each command lives in `precision_planner/cli/<name>.py` as a click command named `command`, and is imported
only when it is called, so that `planner --version` imports nothing but click.

Exit codes: 0 done, within tolerance; 1 findings at --fail-on, a difference beyond tolerance, an --expect not
met (a command raises `click.exceptions.Exit(1)` or returns 1); 2 a mistake of the user's or a missing extra,
as one line on stderr; 3 a bug of ours, with its traceback. An interrupt is 130, a closed pipe 141, as in a
shell.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from precision_planner._text import visible
from precision_planner.cli import logs
from precision_planner.cli.guard import guard
from precision_planner.cli.signals import Terminated, clean_up_on_signals, end_on_lost_pages
from precision_planner.errors import PlannerError

EXIT_DONE = 0
EXIT_FINDINGS = 1
EXIT_USER_ERROR = 2
EXIT_BUG = 3
EXIT_INTERRUPTED = 128 + 2
EXIT_CLOSED_PIPE = 128 + 13

# In the order of a user's work; the summary stands here so that --help need not import the commands.
COMMANDS = {
    "analyze": "Say what FP16 breaks in a model, and why.",
    "rewrite": "Convert a model to typed FP16 or BF16, keeping in FP32 what must be kept.",
    "plan": "Decide precisions and emit a folder that builds the engine.",
    "build": "Build a plan's engine and report what was asked and what came out.",
    "inspect": "Show what precision an engine really has.",
    "diff": "Compare outputs with onnxruntime's FP32.",
    "check": "Ask whether a model may go into 16 bits: one gate for CI.",
    "report": "Render a saved analysis, plan or diff again.",
    "rules": "List, explain and test the rules.",
    "extract": "Cut out a small model that reproduces a finding.",
    "migrate": "Turn a weakly typed recipe into its strongly typed equivalent.",
    "fp16": "Show the bits of a value in FP16 and BF16.",
    "triton": "Make, check and load-test a Triton model repository.",
    "help": "Explain what commands share: inputs, selectors, tolerances, ...",
}

ALIASES = {
    "analyse": "analyze",
    "lint": "analyze",
    "convert": "rewrite",
    "optimize": "rewrite",
    "quantize": "rewrite",
    "compare": "diff",
    "verify": "diff",
    "run": "diff",
    "surgeon": "extract",
    "trtexec": "migrate",
    "serve": "triton",
}
"""What people call a command elsewhere -> the command that is suggested."""

_VERBOSITY_KEY = "precision_planner.verbosity"


class PlannerGroup(click.Group):
    """A group whose commands are modules, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands whose module exists, in the order of a user's work."""
        here = Path(__file__).parent
        modules = [
            name for name in COMMANDS if (here / f"{name}.py").is_file() or (here / name / "__init__.py").is_file()
        ]
        return [*modules, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its `command`, or None for an unknown name."""
        command = self.commands.get(cmd_name)
        if command is None:
            if cmd_name not in self.list_commands(ctx):
                return None
            command = importlib.import_module(f"precision_planner.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        _accept_verbosity(command)
        guard(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, say which was meant."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            near = ALIASES.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), "")
            hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"No such command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command with the defaults of planner.toml, where there is one."""
        _take_defaults(self, ctx)
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, COMMANDS.get(name, "")) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _take_defaults(group: PlannerGroup, ctx: click.Context) -> None:
    """Give click the defaults of planner.toml for the command that is about to run."""
    from precision_planner.cli.defaults import defaults_of, find_defaults, read_defaults

    path = find_defaults()
    words = [*ctx._protected_args, *ctx.args]
    if path is None or not words or ctx.resilient_parsing:
        return
    tables = read_defaults(path)
    unknown = [name for name in tables if name not in COMMANDS]
    if unknown:
        raise PlannerError(f"{path}: [{unknown[0]}] is no command; there are {', '.join(COMMANDS)}")
    command = group.get_command(ctx, words[0])
    if command is not None and words[0] in tables:
        ctx.default_map = {words[0]: defaults_of(command, tables[words[0]], path, words[0])}
        logs.say(f"defaults of [{words[0]}] from {path}", shown=True)


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
    """Add up -v and -q, wherever they stand, and set the level of our loggers (-q: errors alone)."""
    if not value or ctx.resilient_parsing:
        return
    verbosity = ctx.meta.get(_VERBOSITY_KEY, 0) + (value if param.name == "verbose" else -value)
    ctx.meta[_VERBOSITY_KEY] = verbosity
    logs.configure(verbosity)


def verbosity() -> int:
    """Return how often -v was given, less how often -q; 0 outside a command."""
    ctx = click.get_current_context(silent=True)
    return 0 if ctx is None else int(ctx.meta.get(_VERBOSITY_KEY, 0))


def _log_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        logs.open_file(value)


def _log_format(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        logs.in_json(value == "json")


def _verbosity_options() -> list[click.Option]:
    return [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_set_verbosity,
            help="Say more on stderr; twice for debugging.",
        ),
        click.Option(
            ["-q", "--quiet"],
            count=True,
            expose_value=False,
            callback=_set_verbosity,
            help="Only results and errors.",
        ),
        click.Option(
            ["--log-file"], metavar="FILE", expose_value=False, callback=_log_file, help="Log notes and steps here too."
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_log_format,
            help="Of what is said on stderr and logged.",
        ),
    ]


def _accept_verbosity(command: click.Command) -> None:
    """Let a command take -v and -q too: people write them last."""
    taken = {option for param in command.params for option in param.opts}
    for option in _verbosity_options():
        if not taken.intersection(option.opts):
            command.params.append(option)
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _accept_verbosity(child)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"planner {version('precision-planner')}")
        ctx.exit()


def _install_completion(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value and not ctx.resilient_parsing:
        from precision_planner.cli.completion import install_completion

        click.echo(install_completion(planner, "" if value == "auto" else value))
        ctx.exit()


@click.group(
    cls=PlannerGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="planner COMMAND --help explains a command, with examples; planner help the rest. "
    "Exit codes: 0 done; 1 findings or a difference beyond tolerance; 2 your mistake; 3 ours.",
    params=[
        *_verbosity_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
        click.Option(
            ["--install-completion"],
            is_flag=False,
            flag_value="auto",
            metavar="[SHELL]",
            is_eager=True,
            expose_value=False,
            callback=_install_completion,
            help="Complete options, targets and selectors in bash, zsh or fish.",
        ),
    ],
)
def planner() -> None:
    """Say what FP16 breaks in an ONNX model, mend it, and prove the result."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises.

    Args:
      argv: the arguments without the program's name; None takes sys.argv's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logs.configure(0)
    start = time.monotonic()
    try:
        code = _run(arguments)
        logs.say(f"exit {code} after {time.monotonic() - start:.1f} s: planner {shlex.join(arguments)}", shown=True)
        return code
    finally:
        logs.close()


def _run(arguments: list[str]) -> int:
    """The command line's exit code; every exception becomes one."""
    try:
        result = _invoke(arguments)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USER_ERROR
    except click.UsageError as error:
        return _fail(error.format_message(), hint=_usage_hint(error))
    except click.ClickException as error:
        return _fail(error.format_message())
    except Terminated as error:
        click.echo("planner: terminated", err=True)
        return 128 + error.number
    except (click.Abort, KeyboardInterrupt):
        click.echo("planner: interrupted", err=True)
        return EXIT_INTERRUPTED
    except SystemExit as error:
        # of click's completions; a script of the user's that ends the program is caught where it is called
        return error.code if isinstance(error.code, int) else EXIT_DONE if error.code is None else EXIT_FINDINGS
    except BrokenPipeError:
        # The reader is gone (`planner ... | head`): nothing to report.
        _discard_stdout()
        return EXIT_CLOSED_PIPE
    except PlannerError as error:
        _debug_traceback()
        return _fail(str(error) or type(error).__name__, code=error.exit_code)
    except MemoryError as error:
        _debug_traceback()
        return _fail(
            f"out of memory ({str(error) or 'no more could be had'}); give smaller --inputs, or a machine with more"
        )
    except OSError as error:
        # A file that cannot be read or written is the machine's or the user's doing, not a bug.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            _discard_stdout()
            return _fail(f"cannot write the result: {error.strerror}; make room, or write elsewhere")
        if error.errno == errno.EBADF and error.filename is None and isinstance(sys.stdout, _Closed):
            return _fail("the result has nowhere to go: stdout is closed; write it to a file")
        if error.filename is None:
            return _report_bug(arguments)
        _debug_traceback()
        return _fail(f"{error.filename}: {error.strerror}; check the path and its permissions")
    except Exception:
        return _report_bug(arguments)
    return result if isinstance(result, int) and not isinstance(result, bool) else EXIT_DONE


def _invoke(arguments: list[str]) -> Any:
    """Run the command line; every way out but a result is an exception.

    click's own main() turns a closed pipe into exit code 1, which is the one of findings.
    """
    if "_PLANNER_COMPLETE" in os.environ:  # the shell asks for completions
        return planner.main(args=arguments, prog_name="planner")
    with planner.make_context("planner", arguments) as ctx:
        return planner.invoke(ctx)


def run() -> NoReturn:
    """Entry point of the `planner` program."""
    _prepare_streams()
    clean_up_on_signals()
    end_on_lost_pages(_fail)
    sys.exit(main())


class _Closed(io.TextIOBase):
    """What stands for a stream that was closed before the program began (``>&-``)."""

    def write(self, text: str) -> int:
        """Say so, as the system would."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _prepare_streams() -> None:
    """Text that the encoding lacks is escaped, and a closed stream's number is not given to a file of ours."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # mypy believes that they are always there
    if vars(sys)["stdout"] is None:
        sys.stdout = _Closed()
    if vars(sys)["stderr"] is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, or the interpreter's own flush at exit complains again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "planner"
    return f"see {path} --help"


def _fail(message: str, *, hint: str = "", code: int = EXIT_USER_ERROR) -> int:
    """Print a mistake of the user's as one line, whatever line breaks its message has."""
    line = visible(" ".join(message.split()))
    line += f" ({hint})" if hint else ""
    logs.fail(line)
    if not logs.is_json():
        click.echo(f"planner: error: {line}", err=True)
    return code


def _debug_traceback() -> None:
    if logs.is_debugging():
        traceback.print_exc(file=sys.stderr)


def _report_bug(arguments: Sequence[str]) -> int:
    """Print the traceback of a bug and what a report of it needs."""
    import platform
    from importlib import metadata

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    traceback.print_exc(file=sys.stderr)
    packages = ("precision-planner", "onnx", "onnxruntime", "numpy", "tensorrt-rtx")
    click.echo(
        "\n".join(
            [
                "",
                "planner: this is a bug in the planner, not a mistake of yours. Please report it with",
                "the traceback above, these lines, and the model if you can share it",
                "(CONTRIBUTING.md, Reporting a bug):",
                f"  command: planner {shlex.join(arguments)}",
                f"  python: {platform.python_version()} on {platform.platform()}",
                *(f"  {name}: {version(name)}" for name in packages),
            ]
        ),
        err=True,
    )
    return EXIT_BUG
