"""What `on_gpu.py` measures: a file for each question."""
