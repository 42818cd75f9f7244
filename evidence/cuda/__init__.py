"""The simulation against a GPU: typed graphs evaluated node by node by torch, in the very types they have."""
