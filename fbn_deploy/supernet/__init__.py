"""The supernet: Choice blocks, fair BatchNorm, path samplers, training, and subnets out of it."""
