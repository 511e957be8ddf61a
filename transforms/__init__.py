"""One stage a module. The arithmetic is in `transforms.kernels`, which knows no Beam."""
