"""Files that ship with the package but are not Python."""

from __future__ import annotations

from pathlib import Path

from precision_planner.errors import InstallationError

_PACKAGE = Path(__file__).resolve().parent


def rulebook_dir(package: Path = _PACKAGE) -> Path:
    """Return the folder of the rule book: one YAML file per rule.

    A wheel carries it as `precision_planner/_rulebook`; in a checkout (an editable install included) it is
    `rules/` at the top of the repository. The checkout is recognized by its pyproject.toml, so that a folder
    named `rules` which happens to lie beside the package in site-packages is not taken for ours.

    Args:
      package: the folder of the installed package `precision_planner`.

    Returns:
      An existing folder.

    Raises:
      InstallationError: neither folder is there.
    """
    packaged = package / "_rulebook"
    if packaged.is_dir():
        return packaged
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "rules").is_dir():
        return checkout / "rules"
    raise InstallationError(
        f"the rule book is missing from this installation: neither {packaged} nor {checkout / 'rules'} "
        "exists; reinstall precision-planner"
    )
