"""The unit that is kept or pruned together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from prunekit.frozen import name_only
from prunekit.structures.base import Structure
from prunekit.structures.unstructured import Unstructured

AnyStructure = Annotated[Unstructured, BeforeValidator(name_only)]
"""Any structure; one with only a name may be written as a string."""

__all__ = ["AnyStructure", "Structure", "Unstructured"]
