"""Sensing where a model is sensitive: what each axis costs to cut, and what it saves."""
