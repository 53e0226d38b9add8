"""`embedder`: vectors for texts, from a model that makes vectors."""

from __future__ import annotations

from pydantic import BaseModel, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError


@node(cost="io", category="text", tags=("llm", "vectors"))
class Embedder:
    """Makes vectors of texts, with the provider's embedding model."""

    class Input(BaseModel):
        """The texts."""

        model_config = closed({"texts": ["rain", "snow"]})

        text: str | None = Field(default=None, description="One text; or say `texts`.")
        texts: list[str] | None = Field(default=None, description="Several texts; none may be empty.")
        dimensions: int | None = Field(
            default=None, ge=1, description="The length of the vectors, for models that can choose it."
        )
        embedding_model: str | None = Field(
            default=None, description="Another model than the provider's `embedding_model`."
        )

    class Output(BaseModel):
        """The vectors."""

        embedding: list[float] | None = Field(description="The vector of the first text; null when there is none.")
        embeddings: list[list[float]] = Field(description="A vector for each text, in their order.")
        count: int = Field(description="How many there are.")
        dimensions: int = Field(description="How long each is; 0 when there is none.")
        tokens_used: int = Field(description="How many tokens were read.")
        cost_usd: float | None = Field(description="What it cost in US dollars; null: the price is not known.")
        model: str = Field(description="The model that made them.")
        provider: str = Field(description="The provider that was asked.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask.

        Raises:
            PermanentError: `invalid_config`, not exactly one of `text` and `texts` is given.
            StageError: there are no vectors.
        """
        if (input.text is None) == (input.texts is None):
            raise PermanentError("'embedder' needs either 'text' or 'texts'.", code="invalid_config")
        texts = [input.text] if input.text is not None else input.texts or []
        made = await context.models.embed(texts, dimensions=input.dimensions, model=input.embedding_model)
        vectors = [list(vector) for vector in made.vectors]
        return self.Output(
            embedding=vectors[0] if vectors else None,
            embeddings=vectors,
            count=len(vectors),
            dimensions=len(vectors[0]) if vectors else 0,
            tokens_used=made.usage.total_tokens,
            cost_usd=made.cost_usd,
            model=made.model,
            provider=made.provider,
        )
