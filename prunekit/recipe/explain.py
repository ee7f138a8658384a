"""What is wrong with a recipe as sentences, each at the place where it was written."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from prunekit.foundation.plain import dotted
from prunekit.recipe.document import RecipeFault, SourceDocument
from prunekit.registry.sentences import problems_in


def faults_in(
    error: ValidationError, document: SourceDocument, recipe: type[BaseModel]
) -> list[RecipeFault]:
    """Every error with its place; several at one place, from a union, become one."""
    return [
        RecipeFault(
            document.place(problem.path, of_key=problem.of_key), dotted(problem.path), problem.what
        )
        for problem in problems_in(error, document.root, recipe, document.unread)
    ]
