"""train_: give a model its accuracy back, on as many devices as it was launched on."""

from .history import Epoch, Trained, Update
from .ready import check_trainable
from .setting import leave
from .train import train_

__all__ = ["Epoch", "Trained", "Update", "check_trainable", "leave", "train_"]
