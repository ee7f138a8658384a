"""Plain files that stock PyTorch reads: the model with its zeros in place."""

from prunekit.export.model_file import load_model, model_metadata, write_model

__all__ = ["load_model", "model_metadata", "write_model"]
