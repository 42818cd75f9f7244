"""`python -m precision_planner` is the same program as `planner`."""

from __future__ import annotations

from precision_planner.cli.main import run

if __name__ == "__main__":
    run()
