"""Sample models that the tests, the demo and the notebooks build; no part of the installed package."""
