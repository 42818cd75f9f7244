"""What an engine really has: its layers and kernels, its log, and the weights in its bytes."""
