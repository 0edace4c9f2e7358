"""The parts of benchmarks/against_torch_pruning.py, one file each."""
