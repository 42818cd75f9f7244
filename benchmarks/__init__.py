"""What the project measures: `python -m benchmarks [NAME...]` (`make bench` runs all)."""
