"""The state of an unfinished trial in one safetensors file: weights, best weights, Adam's moments.

The random generators are seeded by (seed, epoch), so no generator state is kept, and a trial that
was killed ends with the same bits as one that was not. Nothing is unpickled.

Here belong the file and its header. When one is due belongs to `trial.py`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fparec_pipeline.datasets.files import write_atomically
from fparec_pipeline.training.record import (
    CHECKPOINT,
    NO_SEAL,
    STATE_SEAL,
    TrialCorrupt,
    checkpoint_fits,
    text_seal,
    write_checkpoint_seal,
)

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """Where a trial stands after `epoch` epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0  # validation NDCG@10, history kept
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def note(
        self,
        loss: float,
        metrics: dict[str, float],
        weights: dict[str, Tensor],
        *,
        seconds: float,
        targets_per_second: float,
    ) -> None:
        """What the epoch came to: a row of the history, and a copy of the weights if it is best."""
        score = metrics["ndcg_at_10"]
        if score > self.best_score:
            self.best_epoch, self.best_score = self.epoch, score
            self.best_weights = {n: t.clone() for n, t in weights.items()}
        self.seconds += seconds
        self.history.append(
            {
                "epoch": self.epoch,
                "loss": loss,
                "valid_hr_at_10": metrics["hr_at_10"],
                "valid_ndcg_at_10": score,
                "seconds": seconds,
                "targets_per_second": targets_per_second,
            }
        )


def save_checkpoint(
    folder: Path, state: TrainingState, model: nn.Module, optimizer: torch.optim.Adam, attempt: str
) -> None:
    """Write the checkpoint atomically, so that a kill leaves the last one or this one."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best_weights.items()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"{key}.{names[parameter]}": moments[key] for key in MOMENTS}
    plain = {key: value for key, value in vars(state).items() if key != "best_weights"}
    words = json.dumps(plain | {"attempt": attempt})
    metadata = {"state": words, STATE_SEAL: text_seal(words), "sha256": NO_SEAL}
    with write_atomically(folder / CHECKPOINT) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata)
        write_checkpoint_seal(part)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Adam, attempt: str
) -> TrainingState:
    """Bring model and optimizer to the checkpoint's state; a fresh state where there is none.

    Raises:
        TrialCorrupt: the checkpoint's checksum does not fit, it cannot be read, or it belongs to
            another model.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return TrainingState()
    try:
        if not checkpoint_fits(path):
            raise ValueError("its checksum does not fit")
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
        if plain.pop("attempt") != attempt:
            return TrainingState()
        tensors = load_file(path)
        model.load_state_dict(_under(tensors, "model."))
        for name, parameter in model.named_parameters():
            if f"step.{name}" in tensors:
                # Fused Adam wants the step beside the moments, on the parameter's device.
                optimizer.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to(parameter.device) for key in MOMENTS
                }
        return TrainingState(**plain, best_weights=_under(tensors, "best."))
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise TrialCorrupt(
            f"{path} cannot be resumed ({error}); delete it to train from the first epoch"
        ) from error


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
