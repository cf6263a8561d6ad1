"""Whether a play was skipped, from what the columns of a log say of it: SQL, and what looks wrong in its results."""

from collections.abc import Collection, Iterator

from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare.column_roles import FLAGS
from skipwise.datapipes.prepare.skip_options import SKIPS, SkipOptions
from skipwise.datapipes.signals import UNKNOWN

MOST_SKIPPED = 0.9
"""A greater share of skipped plays is warned of."""
_MSSD = """CASE WHEN skip_1_flag THEN 1 WHEN skip_2_flag THEN 2
    WHEN skip_1_flag IS NULL OR skip_2_flag IS NULL OR skip_3_flag IS NULL THEN NULL
    WHEN skip_3_flag THEN 3 ELSE 0 END"""
_NOT_SKIP = "CASE WHEN NOT skip_flag THEN 0 END"
_REMEDIES = {
    "skip": "if it is true where a track was kept, name it with --kept in place of --skip",
    "kept": "if it is true where a track was skipped, name it with --skip in place of --kept",
    "rating": "set --skip-below to what a low value is",
    "reason": "check --skip-reasons and --keep-reasons",
    "played": "check --skip-under and --played-unit",
}


def strength_of(roles: Collection[str], config: SkipOptions) -> str:
    """Returns SQL over the parsed rows for the skip strength: 0 kept, 1 skipped very briefly in, 2 briefly in, 3 mostly
    played, -1 not known."""
    found = [*_rules(roles, config)]
    return f"coalesce({', '.join(found)}, {UNKNOWN})" if found else "0"


def _rules(roles: Collection[str], config: SkipOptions) -> Iterator[str]:
    """What each column says, NULL where it says nothing, in the order in which they decide."""
    if {"skip", "kept"} <= {*roles}:
        yield "CASE WHEN skip_flag THEN 2 WHEN kept_flag THEN 0 END"
    elif "skip" in roles:
        yield "CASE WHEN skip_flag THEN 2 END"
        if "reason" not in roles:
            yield _NOT_SKIP
    elif "kept" in roles:
        yield "CASE WHEN kept_flag THEN 0 WHEN NOT kept_flag THEN 2 END"
    if "skip_strength" in roles:
        yield "CASE WHEN skip_strength_value IN (0, 1, 2, 3) THEN skip_strength_value END"
    if "rating" in roles:
        yield f"CASE WHEN rating_value < {config.skip_below} THEN 2 WHEN rating_value IS NOT NULL THEN 0 END"
    if "reason" in roles:
        skips, keeps = _is_one(config.skip_reasons), _is_one(config.keep_reasons)
        skips = skips or "NOT missing(reason)"
        yield (
            f"CASE WHEN {keeps} THEN 0 WHEN {skips} THEN 2 END"
            if keeps
            else f"CASE WHEN {skips} THEN 2 WHEN NOT missing(reason) THEN 0 END"
        )
        # Spotify's exports have a flag that is false on every play of some years, skipped or not.
        if "skip" in roles and "kept" not in roles:
            yield _NOT_SKIP
    if "played" in roles:
        value = "CASE WHEN duration_value > 0 THEN played_value / duration_value END"
        value = value if "duration" in roles else "played_value"
        yield f"CASE WHEN {value} < {config.least_played} THEN 2 WHEN {value} IS NOT NULL THEN 0 END"
    if {*FLAGS} <= {*roles}:
        yield f"CASE WHEN not_skipped_flag THEN 0 ELSE {_MSSD} END" if "not_skipped" in roles else _MSSD


def _is_one(words: tuple[str, ...]) -> str:
    texts = ", ".join("word('" + word.replace("'", "''") + "')" for word in words)
    return f"word(reason) IN ({texts})" if words else ""


def doubts(manifest: Manifest, roles: dict[str, str]) -> str | None:
    """Returns the warning about a share of skips that is hardly true, None where it may be."""
    columns = [role for role in (*SKIPS, *FLAGS) if role in roles]
    if not columns:
        return None
    named = ", ".join(f"'{roles[role]}'" for role in columns)
    if manifest.unknown_share == 1:
        return f"warning: of no play it is known whether it was skipped: {named} says nothing; name another column"
    share = manifest.skip_share / (1 - manifest.unknown_share)
    if 0 < share <= MOST_SKIPPED:
        return None
    how = "none" if share == 0 else "all" if share >= 1 else f"{100 * share:.1f} %"
    # A flag that is turned round would be at odds with the other columns where these find no skip either.
    flags = ("skip", "kept") if len(columns) > 1 and share == 0 else ()
    remedies = [_REMEDIES[role] for role in columns if role in _REMEDIES and role not in flags]
    return "; ".join([f"warning: {how} of the plays are skipped, by {named}", *remedies])
