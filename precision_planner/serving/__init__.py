"""Into production: a Triton model repository from a plan, and a running server checked and load-tested."""
