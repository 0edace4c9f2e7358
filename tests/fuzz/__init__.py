"""Fuzzing: Hypothesis makes up command lines, damaged files and plug-ins; prunekit must cope.

Only public names and the files on disk are used, so that the harness outlives any rework inside.

    strategies/   what may come in, as Hypothesis strategies
    sorts/        one sort of case each: how to run one, and how to judge what came of it
    sandbox.py    runs a case in a child process, with limits
    scene.py      what the cases need: images, a saved model, a comparison, a training run
    fuzzing.py    runs many cases; `few` in CI, `many` by `pytest -m long tests/fuzz`
    count.py      counts outcomes without stopping at the first bad one
"""
