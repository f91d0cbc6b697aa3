"""The exported graph, run by onnxruntime, against PyTorch."""

import numpy as np
import polars as pl
import pytest
import torch
from packed import name_of, packed_model

from fparec_pipeline.serving.onnx import export_onnx

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    "arm", ["fparec", "parec", "sasrec", "linear_attention", "token_mixing", "average"]
)
def test_scores_are_those_of_pytorch_at_any_batch_and_length(arm, tmp_path):
    model = packed_model(tmp_path / "packed", arm, n=9, blocks=2)
    path, table = export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path)
    draw = np.random.default_rng(0)
    for batch, length in [(1, 1), (1, 9), (5, 4), (2, 7)]:
        items = draw.integers(1, 31, (batch, length))
        items[np.arange(length) < draw.integers(0, length, (batch, 1))] = 0  # left padding
        (scores,) = session.run(None, {"items": items})
        with torch.no_grad():
            hidden = model.network(torch.from_numpy(items.T))[-1]
            expected = hidden @ model.network.item_embedding.weight[1:].T
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5, rtol=1e-5)
    assert pl.read_parquet(table)["source_id"].to_list() == [name_of(i) for i in range(1, 31)]
    assert session.get_modelmeta().custom_metadata_map["n"] == "9"
