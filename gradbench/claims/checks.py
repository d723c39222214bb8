"""Check at the plan that claims name columns and metrics that the tables of the run will have."""

from collections.abc import Callable, Collection, Sequence

from gradbench.claims.schema import STEP_RATIO, Claim
from gradbench.errors import UsageError, nearest

OUTCOMES = frozenset(("diverged", "diverged_at", "step_seconds", "seconds", STEP_RATIO))
"""Metrics that every cell has, beside those that its model reports."""

RECORDED = frozenset(
    ("loss", "penalty", "grad_norm", "grad_norm_used", "update_norm", "clipped", "cosine", "lr")
)
"""Columns of the curves that every cell has at each recorded step."""


def check_claims(
    claims: Sequence[Claim],
    metrics: Collection[str] | None,
    is_key: Callable[[str], bool],
    options: Callable[[str], Collection[str]],
    keys: Collection[str],
) -> None:
    """Refuse claims that no cell could ever decide, since they name what no table has.

    Args:
        claims: the claims of an experiment.
        metrics: names of metrics that its models may report; ``None`` where a task of the user's own may report any.
        is_key: whether a column is a config key that a cell may have.
        options: returns the values that a key can take; empty where there is no list of them.
        keys: the keys of the planned cells, for the nearest one.

    Raises:
        UsageError: for the first name that is unknown.
    """
    for claim in claims:
        known = None if metrics is None else {*metrics, *OUTCOMES, *RECORDED}
        if (
            known is not None
            and claim.metric not in known
            and claim.metric.rpartition("/")[2] not in RECORDED
        ):
            hint = nearest(claim.metric, known) or "; `gradbench info MODEL` lists what it reports"
            raise UsageError(f"claim {claim.id}: no model reports metric: {claim.metric}{hint}")
        selectors = {"treatment": claim.treatment, "control": claim.control, "among": claim.among}
        named = [(where, column) for where, selector in selectors.items() for column in selector]
        named += [("per", key) for key in claim.per] + [("pool", key) for key in claim.pool]
        named += [(where, key) for where, key in (("along", claim.along), ("versus", claim.versus)) if key]
        for where, column in named:
            if not is_key(column):
                raise UsageError(
                    f"claim {claim.id}: {where} names {column}, which no cell has{nearest(column, keys)}"
                )
        for where, selector in selectors.items():
            for column, wanted in selector.items():
                allowed = options(column)
                for value in wanted if allowed else ():
                    if str(value) not in allowed:
                        raise UsageError(
                            f"claim {claim.id}: {where} wants {column}: {value}, which is none of them"
                            f"{nearest(str(value), allowed)} (there are: {', '.join(sorted(allowed))})"
                        )
