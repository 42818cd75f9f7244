"""The targets: each file says one, as its `TARGET`, with the source of each fact. A new file is a new target."""
