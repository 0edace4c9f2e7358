"""prunekit next to torch-pruning's own pruner: same weights, same data, same achieved MACs.

    python benchmarks/against_torch_pruning.py [--models ...] [--cells FILE]

The zoo's models lose 30, 50 and 70 % of their MACs, by torch-pruning's importances with its
local, global and isomorphic pruner, fixed up by hand (against/side.py), and by prunekit's
criteria; each is then evaluated on all 10,000 test images. Writes
benchmarks/results/against_torch_pruning.md. With --cells, finished cells are kept in a file, and
those that are there are not computed again.
"""

from against.command import main

if __name__ == "__main__":
    main()
