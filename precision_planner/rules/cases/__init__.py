"""A rule's cases: the graphs, the inputs, and running them."""
