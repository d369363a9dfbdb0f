"""`ConformalSelector`: LlamaIndex's selector without a language model, and with a stated error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal, Self, get_args

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from routenlp_integrations.llama_index.labelled import choices_of, labelled_of
from router_core.choice_verdict import ChoiceVerdicts, Verdict
from router_core.choices import ChoiceJudge, find_encoder
from router_core.errors import InputError
from router_core.sentence_encoder import TextEncoder

__all__ = ["ConformalSelector", "Decide", "Mode"]

Mode = Literal["single", "multi"]
Decide = Literal["set", "certified"]

_LOG = logging.getLogger(__name__)


class ConformalSelector(BaseSelector):
    """Selects among described choices by a fitted model with calibrated sets; no call of a language model.

    In mode ``"multi"`` the calibrated set is returned. In mode ``"single"`` one choice is: without asking where the
    selector can decide, else the fallback selector's choice among those in the set, else the most probable one. Each
    selection's `reason` says which, with p-value, probability and size of the set.

    Parameters
    ----------
    judge
        From `fit` or `load`.
    mode
        ``"single"`` or ``"multi"``.
    decide
        When mode ``"single"`` can decide; never where nothing is promised for the choices on offer. ``"set"``: when the
        calibrated set holds exactly one choice; then P(taken and wrong) <= alpha, in expectation over calibration
        draws. ``"certified"``: when the probability reaches the certified threshold; then P(taken and wrong) <= alpha
        with probability 1 - delta.
    fallback
        Any selector, asked when this one cannot decide. If it fails, or names a choice that it was not offered, the
        most probable choice is taken.

    Raises
    ------
    InputError
        When `mode` or `decide` is unknown.
    """

    def __init__(
        self,
        judge: ChoiceJudge,
        *,
        mode: Mode = "single",
        decide: Decide = "set",
        fallback: BaseSelector | None = None,
    ) -> None:
        if mode not in get_args(Mode) or decide not in get_args(Decide):
            raise InputError(
                f"mode = {mode!r} must be one of {', '.join(get_args(Mode))}, "
                f"and decide = {decide!r} one of {', '.join(get_args(Decide))}."
            )
        self.judge, self.mode, self.decide, self.fallback = judge, mode, decide, fallback
        self._verdicts = ChoiceVerdicts(judge)

    @classmethod
    def fit(
        cls,
        choices: Sequence[ToolMetadata | str],
        queries: Sequence[tuple[str, int | str]],
        *,
        encoder: str | Path | TextEncoder | None = "static",
        alpha: float = 0.1,
        delta: float = 0.1,
        per_choice: bool = False,
        calibration: Sequence[tuple[str, int | str]] | None = None,
        calibration_share: float = 0.4,
        seed: int = 0,
        threads: int | None = None,
        mode: Mode = "single",
        decide: Decide = "set",
        fallback: BaseSelector | None = None,
    ) -> Self:
        """Fit and calibrate from labelled queries; needs ``routenlp[fit]``.

        Parameters
        ----------
        choices
            Metadata of the tools or query engines, or their descriptions.
        queries
            Queries with the right choice: its index, its name, or its description.
        encoder
            ``"static"``: words and characters. A folder: token vectors or a sentence encoder made by
            ``exporters.transformer.sentence``, or a bundle. Or any object with ``embed(text)``.
        alpha
            Probability of a set without the right choice, and of a wrong choice taken without asking.
        delta
            Probability that the claim behind ``decide="certified"`` is false.
        per_choice
            Promise coverage for the queries of each choice, whatever their mixture; needs ``1 / alpha - 1``
            calibration queries of each.
        calibration
            Labelled queries to calibrate on; without them `calibration_share` of the queries is set apart by a hash.
        calibration_share, seed, threads
            See `router_core.fitting.choices.fit_choices` and `Router.load`.
        mode, decide, fallback
            See the class.

        Raises
        ------
        InputError
            When choices cannot be told apart, or are neither metadata nor descriptions, a label is unknown, a level is
            no number between 0 and 1, or there are too few queries.
        MissingExtraError
            Without ``routenlp[fit]``.
        """
        from router_core.fitting.choices import fit_choices

        known = choices_of(choices)
        judge = fit_choices(
            known, labelled_of(queries, known), encoder=find_encoder(encoder, threads), alpha=alpha, delta=delta,
            per_choice=per_choice, calibration=None if calibration is None else labelled_of(calibration, known),
            calibration_share=calibration_share, seed=seed,
        )  # fmt: skip
        return cls(judge, mode=mode, decide=decide, fallback=fallback)

    def save(self, path: str | Path) -> Path:
        """Write what was fitted as a folder that `load` verifies; mode and fallback are not part of it.

        Raises
        ------
        InputError
            When the target exists and is no such folder, or the encoder cannot be saved.
        """
        return self.judge.save(path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        mode: Mode = "single",
        decide: Decide = "set",
        fallback: BaseSelector | None = None,
    ) -> Self:
        """Read a folder; needs neither torch nor ``routenlp[fit]``.

        Raises
        ------
        BundleError
            When it is no selector, a file is changed, missing or extra, or it is of a newer version.
        """
        return cls(ChoiceJudge.load(path, threads), mode=mode, decide=decide, fallback=fallback)

    def verdict(self, choices: Sequence[ToolMetadata | str], query: str) -> Verdict:
        """All that is known of a query: probabilities, p-values, the set; positions are those of `choices`."""
        return self._verdicts.judge_query(query, choices_of(choices))

    @property
    def statement(self) -> tuple[str, ...]:
        """What is promised, of what, and what voids it; one sentence a line."""
        return self.judge.statement

    def __repr__(self) -> str:
        return "\n".join((f"ConformalSelector(mode={self.mode!r}, decide={self.decide!r})", *self.statement))

    def _repr_html_(self) -> str:
        """Show itself in a notebook: the statement and the choices, escaped."""
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.statement)
        rows = "".join(
            f"<tr><td>{escape(one.name)}</td><td>{escape(one.description)}</td></tr>" for one in self.judge.choices
        )
        return (
            f"<div><b>ConformalSelector</b> mode {escape(self.mode)}, decide {escape(self.decide)}<ul>{lines}</ul>"
            f"<table><tr><th>choice</th><th>description</th></tr>{rows}</table></div>"
        )

    def _get_prompts(self) -> PromptDictType:
        """No prompts of its own."""
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """No prompts of its own."""

    def _get_prompt_modules(self) -> PromptMixinType:
        """Prompts of the fallback selector, where there is one."""
        return {} if self.fallback is None else {"fallback": self.fallback}

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        verdict = self.verdict(choices, query.query_str)
        asked = self._ask(verdict)
        if asked is None:
            return self._decided(verdict)
        try:
            told = _result_of(self._other().select([choices[at] for at in asked], query))
        except Exception as error:  # whatever a fallback raises, a query is answered
            return self._unanswered(verdict, error)
        return self._answered(verdict, asked, told)

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        if self.judge.model.encoder is None:
            verdict = self.verdict(choices, query.query_str)
        else:
            verdict = await asyncio.to_thread(self.verdict, choices, query.query_str)
        asked = self._ask(verdict)
        if asked is None:
            return self._decided(verdict)
        try:
            told = _result_of(await self._other().aselect([choices[at] for at in asked], query))
        except Exception as error:  # as in _select
            return self._unanswered(verdict, error)
        return self._answered(verdict, asked, told)

    def _other(self) -> BaseSelector:
        assert self.fallback is not None  # noqa: S101 - asked only where there is one
        return self.fallback

    def _can_decide(self, verdict: Verdict) -> bool:
        return verdict.taken if self.decide == "certified" else len(verdict.members) == 1 and not verdict.void

    def _ask(self, verdict: Verdict) -> tuple[int, ...] | None:
        """Positions the fallback is asked about, or None when it is not asked."""
        if self.fallback is None or self.mode == "multi" or self._can_decide(verdict) or len(verdict.order) == 1:
            return None
        return verdict.members if len(verdict.members) > 1 and not verdict.void else verdict.order

    def _decided(self, verdict: Verdict) -> SelectorResult:
        if self.mode == "multi" and verdict.members:
            return _result(verdict, verdict.members, "in the calibrated set")
        if self.mode == "single" and self._can_decide(verdict):
            if self.decide == "certified":
                return _result(verdict, verdict.order[:1], "probability over the certified threshold")
            # With a threshold of its own for each choice, the only member need not be the most probable one.
            return _result(verdict, verdict.members, "alone in the set")
        why = _undecided(verdict)
        return _result(verdict, verdict.order[:1], f"cannot decide ({why}); the most probable choice is taken")

    def _unanswered(self, verdict: Verdict, error: Exception) -> SelectorResult:
        name = type(error).__name__
        _LOG.warning("The fallback selector failed (%s); the most probable choice is taken.", name)
        why = f"cannot decide ({_undecided(verdict)}); the fallback failed ({name}), the most probable choice is taken"
        return _result(verdict, verdict.order[:1], why)

    def _answered(self, verdict: Verdict, asked: tuple[int, ...], told: SelectorResult) -> SelectorResult:
        """Turn positions among those asked about into positions offered."""
        wrong = [index for index in told.inds if not 0 <= index < len(asked)]
        if wrong or not told.inds:
            what = f"named choice {wrong[0]} of {len(asked)}" if wrong else "named none"
            _LOG.warning("The fallback selector %s; the most probable choice is taken.", what)
            why = f"cannot decide ({_undecided(verdict)}); the fallback {what}, the most probable choice is taken"
            return _result(verdict, verdict.order[:1], why)
        chosen = told.selections[0]
        how = f"cannot decide ({_undecided(verdict)}); {type(self.fallback).__name__} chose among {len(asked)}"
        return _result(verdict, (asked[chosen.index],), f"{how}: {chosen.reason}")


def _result_of(told: object) -> SelectorResult:
    """What a fallback gave, which nothing else has checked."""
    if not isinstance(told, SelectorResult):
        msg = f"the fallback gave a {type(told).__name__}"
        raise TypeError(msg)
    return told


def _undecided(verdict: Verdict) -> str:
    size = len(verdict.members)
    if verdict.void:
        return "nothing is promised for these choices"
    return "no choice conforms" if size == 0 else f"{size} choices conform" if size > 1 else "not sure enough"


def _result(verdict: Verdict, positions: Sequence[int], how: str) -> SelectorResult:
    promise = f"; uncovered: {verdict.void}" if verdict.void else ""
    return SelectorResult(
        selections=[
            SingleSelection(
                index=at,
                reason=f"{how}: p-value {verdict.p_value[at]:.3f}, probability {verdict.probability[at]:.3f}, "
                f"set of {len(verdict.members)} of {len(verdict.order)}{promise}",
            )
            for at in positions
        ]
    )
