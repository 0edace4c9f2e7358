"""Which dimensions of a model are coupled, found without running it on data."""
