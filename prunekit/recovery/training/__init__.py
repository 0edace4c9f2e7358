"""train_: give a model its accuracy back, on as many devices as it was launched on."""

from .history import Epoch, Trained, Update
from .setting import leave
from .train import train_

__all__ = ["Epoch", "Trained", "Update", "leave", "train_"]
