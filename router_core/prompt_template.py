"""The part of a prompt that a student reads.

Records hold whole prompts, instructions included; a student is trained on what varies between them.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["PLACEHOLDER", "PromptTemplate"]

PLACEHOLDER: Final = "{text}"


class PromptTemplate:
    r"""A prompt with one place for the text; runs of white space count as one space.

    Parameters
    ----------
    template
        Holds ``{text}`` once; other braces are ordinary characters.

    Raises
    ------
    ValueError
        When it does not.

    Examples
    --------
    >>> PromptTemplate("The mood of: {text} In one word.").cut("The mood of:\n fine.  In one word.")
    ('fine.', True)
    >>> PromptTemplate("Name the mood of: {text}").cut("Sum 1 and 2")
    ('Sum 1 and 2', False)
    """

    def __init__(self, template: str) -> None:
        if template.count(PLACEHOLDER) != 1:
            found = template.count(PLACEHOLDER)
            raise ValueError(f"the prompt template holds {PLACEHOLDER} {found} times, not once")
        before, after = template.split(PLACEHOLDER)
        self._whole = not before.strip() and not after.strip()
        self._before = _pattern(before)
        # The end is matched from the end, so that no prompt takes more than one pass.
        self._after = _pattern(after[::-1])

    def cut(self, prompt: str) -> tuple[str, bool]:
        """Return what stands where ``{text}`` stands and True; the prompt itself and False where it does not match."""
        if self._whole:
            return prompt, True
        before, after = self._before.match(prompt), self._after.match(prompt[::-1])
        if before is None or after is None:
            return prompt, False
        start, end = before.end(), len(prompt) - after.end()
        # Around an empty text both sides may claim the same white space.
        return (prompt[start:end], True) if start <= end or prompt[end:start].isspace() else (prompt, False)


def _pattern(fixed: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in fixed.split())
    if not words:
        return re.compile("")
    # Where the template has white space next to the text, the prompt has some too, unless the text is empty.
    last = r"(?:\s+|\Z)" if fixed[-1].isspace() else ""
    return re.compile(rf"\s*{words}{last}")
