"""The parts of benchmarks/dimap_paper.py, one file each."""
