"""From the trials of a dataset to recommendations: the champion, chosen, refitted and asked.

Belongs here: which trial becomes the champion (`choice`), training it once more on all interactions
(`refit`), its folder (`champion`), histories (`histories`), the exact top k (`topk`, `model`), the
recommendations of all users (`batch`), the test that a new champion has to pass (`refresh`) and the
export to ONNX (`onnx`). Neither Dagster nor MLflow: the registry is in tracking, assets in defs.
"""
