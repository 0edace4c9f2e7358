"""reopened: a request for a saved model becomes one for the model that lies there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .artifact import load, read_report
from .errors import RequestError
from .inputs.architectures import is_known
from .inputs.datasets import DATASETS
from .inputs.device import find_device
from .provision import size_of
from .request import Request


def reopened(request: Request) -> Request:
    """Return the request with the model loaded, if it names the directory of a saved one.

    Raises:
        RequestError: It says how to build a model that is there already.
        ArtifactError: The directory holds no saved model, or a damaged one.
    """
    name = request.model
    if not isinstance(name, str) or is_known(name) or not os.path.isdir(name):
        return request
    if request.weights != "auto":
        raise RequestError(
            f"weights is {request.weights!r}, but {name!r} is a saved model that has its own; "
            "leave them out, or name an architecture."
        )
    report = read_report(Path(name))
    data = request.data
    if data is None and report["recipe"]["data"] in DATASETS:
        data = report["recipe"]["data"]
    size = request.img_size or size_of(report)
    model = load(name).to(find_device(request.device))
    return replace(request, model=model, data=data, img_size=size)
