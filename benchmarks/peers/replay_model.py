"""RePlay's SasRec as both its workers have it: one that trains, one that recommends."""

from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.sequential import SasRec

BATCH = 128  # users; RePlay has no default
N, D = 50, 50


def schema_of(n_items: int) -> TensorSchema:
    """Of sequences of item ids from 0, padded with `n_items`."""
    return TensorSchema(
        TensorFeatureInfo(
            "item_id",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            embedding_dim=D,
            padding_value=n_items,
            cardinality=n_items,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
    )


def network(schema: TensorSchema) -> SasRec:
    """Two blocks, one head, a window of N items, D wide."""
    return SasRec.from_params(
        schema, embedding_dim=D, num_heads=1, num_blocks=2, max_sequence_length=N, dropout=0.5
    )
