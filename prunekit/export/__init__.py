"""Plain files that stock PyTorch reads: the model with its zeros in place."""

from prunekit.export.model_file import load_model, write_model

__all__ = ["load_model", "write_model"]
