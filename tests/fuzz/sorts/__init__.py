"""One sort of case each: how to run one, and how to judge what came of it."""
