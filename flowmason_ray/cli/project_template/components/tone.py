"""A component of this project's own. Every class in `components/` that is declared like this can be used in pipelines."""

from __future__ import annotations

import re

from pydantic import BaseModel, Field

from flowmason_ray import Context, operator

GOOD = {"excellent", "friendly", "good", "great", "love", "quick"}
BAD = {"awful", "bad", "broken", "late", "rude", "slow"}


@operator(effect="pure", category="text")
class Tone:
    """Tells whether a text sounds good or bad, by counting words."""

    class Input(BaseModel):
        """What to look at."""

        text: str = Field(description="The text.")

    class Output(BaseModel):
        """What was found."""

        tone: str = Field(description="`good`, `bad` or `mixed`.")
        score: int = Field(description="Good words minus bad words.")

    def execute(self, input: Input, context: Context) -> Output:
        """Count."""
        words = re.findall(r"\w+", input.text.lower())
        score = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        return self.Output(tone="good" if score > 0 else "bad" if score < 0 else "mixed", score=score)
