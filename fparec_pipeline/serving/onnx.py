"""A packed model as an ONNX file, for those who serve elsewhere. Needs the extra `[onnx]`.

The graph takes `items`, (batch, length) int64, each history right-aligned, 0 as padding, length at
most the model's window; and gives `scores`, (batch, number of items) float32, column i − 1 for item
i (equation 10). Nothing is excluded: what to do with the scores is left to the caller. Which item a
column is stands in the parquet file beside it.

Here belongs the export. Packing a champion belongs to `champion.py`.
"""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fparec_pipeline.datasets.files import DatasetError, write_atomically
from fparec_pipeline.models.networks import Network
from fparec_pipeline.serving.model import PackedModel

LARGEST_BATCH = 1 << 20


class OnnxMissing(DatasetError):
    """The packages of the extra `[onnx]` are not installed."""


class _Scores(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, items: Tensor) -> Tensor:
        """(b, L) items → (b, n_items) scores of the item after the last."""
        hidden = self.network(items.T, last_only=True)[0]
        return hidden @ self.network.output_weights().T


def export_onnx(model: PackedModel, target: Path) -> tuple[Path, Path]:
    """Writes `target` and, beside it, `<name>.items.parquet` with item numbers and source ids.

    Raises:
        OnnxMissing: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise OnnxMissing(
            f"The export needs the package {error.name}: pip install 'fparec_pipeline[onnx]'"
        ) from error
    n = model.network.n
    # Sizes of the example that are neither 0 nor 1, which would be taken for constants.
    example = torch.ones(3, min(n, 2), dtype=torch.int64)
    length = torch.export.Dim("length", min=1, max=n) if n > 1 else None
    shapes = {"items": {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH), 1: length}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of a torchvision that is not there
    with warnings.catch_warnings(), write_atomically(target) as part:
        warnings.simplefilter("ignore")  # of the exporter's own deprecations
        program = torch.onnx.export(
            _Scores(model.network).eval(),
            (example,),
            input_names=["items"],
            output_names=["scores"],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
        proto = program.model_proto  # type: ignore[union-attr]
        onnx.helper.set_model_props(proto, _properties(model))
        onnx.save(proto, part)
    table = target.with_suffix(".items.parquet")
    with write_atomically(table) as part:
        model.items.select("item", "source_id").write_parquet(part)
    return target, table


def _properties(model: PackedModel) -> dict[str, str]:
    names = ("dataset", "model", "fingerprint", "commit")
    return {name: str(model.facts.get(name, "")) for name in names} | {"n": str(model.network.n)}
